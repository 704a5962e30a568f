"""`make bench`: every benchmark, then docs/performance.md, its picture and docs/performance.json.

A benchmark measures two things in alternation in one run and reports their ratio, round by round: machines are shared
and noisy, ratios taken side by side are not.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import msgspec

from tests.benchmarks import engine, incremental, top100, worker

mpl.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[2] / "docs"
PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "msgspec",
    "rocksdict",
    "onnxruntime",
    "numpy",
    "faiss-cpu",
)


@dataclass(frozen=True)
class Benchmark:
    """One comparison: `run(folder, rounds=, quick=)` returns a rate of `a` and one of `b` for each round."""

    name: str
    a: str
    b: str
    about: str
    run: Callable[..., Any]
    together: str = ""  #: benchmarks of one group share rounds: `run` also takes `names`, and returns pairs per name


_WORKER = (worker.__doc__ or "").split("\n\n", 1)[1]
BENCHMARKS = [
    Benchmark(
        "engine-vs-bare-faust",
        "the worker with a constant scorer (checks, state, changelog, both lists, confirmations)",
        "a stock Faust agent: one table write and one send per event",
        (engine.__doc__ or "").split("\n\n", 1)[1],
        engine.run,
    ),
    Benchmark(
        "worker-vs-bare-faust",
        "the whole worker: checks, state, changelog, scoring, both lists, confirmations",
        "a stock Faust agent that scores nothing: one table write and one send per event, of the same sizes",
        _WORKER,
        worker.run,
        "worker",
    ),
    Benchmark(
        "worker-vs-naive",
        "the whole worker",
        "a stock Faust agent with the model in PyTorch: per event eager mode, the full encoding, a sort of all videos",
        "Measured in the same rounds as `worker-vs-bare-faust`; the naive app serves fewer users and events.",
        worker.run,
        "worker",
    ),
    Benchmark(
        "worker-vs-quix",
        "the whole worker",
        "the same job on Quix Streams: per event the ONNX scorer with the full encoding and all videos scored",
        "Measured in the same rounds as `worker-vs-bare-faust`. Quix Streams has an environment of its own, its\n"
        "default settings and lz4; its part ends with the checkpoint after the last event.",
        worker.run,
        "worker",
    ),
    Benchmark(
        "incremental-vs-full-batch-64",
        "encoding 64 users at a time from their sessions",
        "encoding both histories of 64 users at a time",
        (incremental.__doc__ or "").split("\n\n", 1)[1],
        incremental.batched,
    ),
    Benchmark(
        "incremental-vs-full-batch-1",
        "encoding one user at a time from the user's session",
        "encoding both histories of one user at a time",
        "The same with one user per batch, where the cost of starting a hundred and sixty small operations shows.",
        incremental.single,
    ),
    Benchmark(
        "top100-vs-numpy-1m",
        "the best 100 of 1 000 000 videos for 64 users, by the index",
        "by numpy, exactly",
        (top100.__doc__ or "").split("\n\n", 1)[1],
        top100.large,
    ),
    Benchmark(
        "top100-vs-numpy-1m-batch-1",
        "the best 100 of 1 000 000 videos for one user, by the index",
        "by numpy, exactly",
        "The same for one user at a time, where numpy reads all vectors for that user alone.",
        top100.large_single,
    ),
    Benchmark(
        "top100-vs-faiss-exact-1m",
        "the best 100 of 1 000 000 videos for 64 users, by the index",
        "by faiss' exact index",
        "The same against `IndexFlatIP`.",
        top100.large_faiss,
    ),
    Benchmark(
        "top100-vs-numpy-100k",
        "the best 100 of 100 000 videos for 64 users",
        "by numpy, exactly",
        "Up to this many videos everything is scored, by both sides: this says what the choice itself costs.",
        top100.medium,
    ),
    Benchmark(
        "top100-vs-numpy-10k",
        "the best 100 of 10 000 videos for 64 users",
        "by numpy, exactly",
        "The same with a tenth of the videos.",
        top100.small,
    ),
]


class Result(msgspec.Struct):
    """A row of docs/performance.json."""

    name: str
    ratio: float  #: median over the rounds
    low: float
    high: float
    runs: int
    a: str
    b: str
    rates: list[tuple[float, float]]  #: events (of top100: users) per second of a and b, per round
    machine: str = ""  #: and versions


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short form of all; writes nothing into docs")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--only", default="", help="those whose name has this in it; the others' results are kept")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    earlier = DOCS / "performance.json"
    kept = (
        {}
        if not options.only
        else {row.name: row for row in msgspec.json.decode(earlier.read_bytes(), type=list[Result])}
    )
    results = []
    shared: dict[str, list[tuple[float, float]]] = {}
    for benchmark in BENCHMARKS:
        if options.only not in benchmark.name:
            results += [kept[benchmark.name]] if benchmark.name in kept else []
            continue
        print(f"{benchmark.name}: {benchmark.a}\n  against {benchmark.b}", flush=True)
        if benchmark.name not in shared:
            began = time.monotonic()
            shared |= _measure(benchmark, options.only, rounds, options.quick)
            print(f"  took {time.monotonic() - began:.0f} s", flush=True)
        rates = shared[benchmark.name]
        ratios = sorted(a / b for a, b in rates)
        result = Result(
            benchmark.name,
            median(ratios),
            ratios[0],
            ratios[-1],
            len(ratios),
            benchmark.a,
            benchmark.b,
            rates,
            _machine(),
        )
        print(f"  ratio {result.ratio:.1f} ({result.low:.1f} to {result.high:.1f}, {result.runs} rounds)", flush=True)
        results.append(result)
    if options.quick:
        print("short form: docs/performance.* left as they are")
        return
    DOCS.mkdir(exist_ok=True)
    (DOCS / "performance.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    (DOCS / "performance.md").write_text(document(results))
    draw(results, DOCS / "performance.png")
    print(f"written: {DOCS / 'performance.md'}")


def _measure(benchmark: Benchmark, only: str, rounds: int, quick: bool) -> dict[str, list[tuple[float, float]]]:
    """The pairs of a benchmark, and of the others of its group that are asked for."""
    with tempfile.TemporaryDirectory(prefix="lsvcr-bench-") as folder:
        if not benchmark.together:
            return {benchmark.name: benchmark.run(Path(folder), rounds=rounds, quick=quick)}
        group = [other.name for other in BENCHMARKS if other.together == benchmark.together and only in other.name]
        pairs: dict[str, list[tuple[float, float]]] = benchmark.run(
            Path(folder), rounds=rounds, quick=quick, names=group
        )
        return pairs


def document(results: list[Result]) -> str:
    """docs/performance.md."""
    about = {benchmark.name: benchmark.about for benchmark in BENCHMARKS}
    lines = [
        "# Performance",
        "",
        "Made by `make bench`, which also writes `performance.json`. Each figure is a ratio of two things measured in",
        "alternation in one run: the median over the rounds, and the lowest and highest round. Rates belong to the",
        "machine named with each, and to its load at the time; ratios travel better.",
        "",
        "![ratios](performance.png)",
        "",
        "| benchmark | ratio | lowest – highest | rounds | a, per second | b, per second |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        a, b = (median(rates) for rates in zip(*result.rates, strict=True))
        lines.append(
            f"| `{result.name}` | **{result.ratio:.1f}** | {result.low:.1f} – {result.high:.1f} | {result.runs} "
            f"| {a:,.0f} | {b:,.0f} |"
        )
    for result in results:
        lines += ["", f"## {result.name}", "", f"a: {result.a}.", f"b: {result.b}.", "", about[result.name].strip()]
        lines += ["", f"Measured on: {result.machine}."]
    return "\n".join(lines) + "\n"


def draw(results: list[Result], path: Path) -> None:
    """A bar per ratio, with its spread."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.6 * len(results)), layout="constrained")
    for row, result in enumerate(results):
        error = [[result.ratio - result.low], [result.high - result.ratio]]
        axes.barh(row, result.ratio, xerr=error, color="#4c78a8", capsize=4)
        axes.annotate(f"{result.ratio:.1f}x", (result.high, row), xytext=(6, -4), textcoords="offset points")
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xlabel("ratio of rates, a to b (median; whiskers: lowest and highest round)")
    axes.set_xlim(0, max(result.high for result in results) * 1.15)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _machine() -> str:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, {platform.system()}; {versions}"


if __name__ == "__main__":
    main()
