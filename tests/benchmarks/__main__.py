"""`make bench`: every benchmark, then docs/performance.md, its pictures and docs/performance.json.

A benchmark measures two things in alternation in one run and reports their ratio, round by round: machines are shared
and noisy, ratios taken side by side are not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.benchmarks.definitions import ABOUT, BENCHMARKS, Benchmark
from tests.benchmarks.document import document, draw_all
from tests.benchmarks.results import Measured, Result, result

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    ends_cleanly()
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short form of all; writes nothing into docs")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--only", default="", help="those whose name has this in it; the others' results are kept")
    parser.add_argument("--out", type=Path, default=None, help="where to write (default: docs; with --quick nowhere)")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    out: Path | None = options.out or (None if options.quick else DOCS)
    kept = {} if out is None else earlier(out)
    results = measure(options.only, rounds, options.quick, kept)
    if out is None:
        print("short form: docs/performance.* left as they are")
    else:
        # What other commands measured (`make soak`) stays.
        named = {benchmark.name for benchmark in BENCHMARKS}
        write([*results, *(row for name, row in kept.items() if name not in named)], out)


def ends_cleanly() -> None:
    """SIGTERM ends the brokers and applications that were started, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def write(results: Sequence[Result], out: Path) -> None:
    """The document, its data and its pictures."""
    out.mkdir(exist_ok=True, parents=True)
    (out / "performance.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    (out / "performance.md").write_text(document(results, ABOUT))
    draw_all(results, out)
    print(f"written: {out / 'performance.md'}")


def measure(only: str, rounds: int, quick: bool, kept: dict[str, Result]) -> list[Result]:
    """Run those whose name has `only` in it; the others are as in `kept`."""
    results = []
    done: dict[str, Measured] = {}
    began = time.monotonic()
    for benchmark in BENCHMARKS:
        if only not in benchmark.name:
            results += [kept[benchmark.name]] if benchmark.name in kept else []
            continue
        if benchmark.name not in done:
            print(f"{benchmark.name}: {benchmark.a}\n  against {benchmark.b}", flush=True)
            started = time.monotonic()
            done |= _run(benchmark, only, rounds, quick)
            print(f"  took {time.monotonic() - started:.0f} s", flush=True)
        row = result(
            benchmark.name, benchmark.a, benchmark.b, benchmark.unit, benchmark.wanted, done[benchmark.name]
        )  # fmt: skip
        print(f"  {row.name}: {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f}, {row.runs} rounds)", flush=True)
        for figure in row.figures:
            print(f"    {figure.name}: {figure.value:,.2f} ({figure.low:,.2f} to {figure.high:,.2f}) {figure.unit}")
        results.append(row)
    print(f"all took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return results


def _run(benchmark: Benchmark, only: str, rounds: int, quick: bool) -> dict[str, Measured]:
    """What was measured for a benchmark, and for the others of its group that are asked for."""
    with tempfile.TemporaryDirectory(prefix="lsvcr-bench-") as folder:
        if not benchmark.together:
            found = benchmark.run(Path(folder), rounds=rounds, quick=quick)
            return {benchmark.name: found if isinstance(found, Measured) else Measured(found)}
        group = [other.name for other in BENCHMARKS if other.together == benchmark.together and only in other.name]
        found = benchmark.run(Path(folder), rounds=rounds, quick=quick, names=group)
        return {name: one if isinstance(one, Measured) else Measured(one) for name, one in found.items()}


def earlier(out: Path) -> dict[str, Result]:
    """The rows that are in a folder's performance.json, by name."""
    path = out / "performance.json"
    if not path.exists():
        return {}
    return {row.name: row for row in msgspec.json.decode(path.read_bytes(), type=list[Result])}


if __name__ == "__main__":
    main()
