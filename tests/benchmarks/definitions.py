"""Every benchmark of `make bench`: its name, what is compared, and which function measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tests.benchmarks import (
    engine,
    engine_quix,
    growth,
    incremental,
    latency,
    rebalance,
    recovery,
    scaling,
    soak,
    top100,
    worker,
)


@dataclass(frozen=True)
class Benchmark:
    """One comparison. `run(folder, rounds=, quick=)` returns `Measured`, or pairs of what a and b did, by round."""

    name: str
    a: str
    b: str
    about: str  #: what is measured and how; empty: as the benchmark before it, in the same section of the document
    run: Callable[..., Any]
    wanted: str = ""
    unit: str = "per second"
    together: str = ""  #: benchmarks of one group share rounds: `run` also takes `names`, and returns a dict by name


def _said(module: ModuleType) -> str:
    """What a module says of itself, without its first line."""
    return (module.__doc__ or "").split("\n\n", 1)[1]


_BOTH = "a stock Faust agent that scores nothing: one table write and one send per event, of the same sizes"

_ENGINE = [
    Benchmark(
        "engine-vs-bare-faust",
        "the worker with a constant scorer (checks, state, changelog, both lists, confirmations)",
        "a stock Faust agent: one table write and one send per event",
        _said(engine),
        engine.run,
        wanted="≥ 10",
        unit="events/s",
    ),
    Benchmark(
        "engine-vs-quix",
        "the worker with a constant scorer",
        "the same work on Quix Streams, with a constant scorer",
        _said(engine_quix),
        engine_quix.run,
        wanted="≥ 1",
        unit="events/s",
    ),
]

_WORKER = [
    Benchmark(
        "worker-vs-bare-faust",
        "the whole worker: checks, state, changelog, scoring, both lists, confirmations",
        _BOTH,
        _said(worker),
        worker.run,
        wanted="≥ 1.5",
        unit="events/s",
        together="worker",
    ),
    Benchmark(
        "worker-vs-naive",
        "the whole worker",
        "a stock Faust agent with the model in PyTorch: per event eager mode, the full encoding, a sort of all videos",
        "",
        worker.run,
        wanted="≥ 20",
        unit="events/s",
        together="worker",
    ),
    Benchmark(
        "worker-vs-quix",
        "the whole worker",
        "the same job on Quix Streams: per event the ONNX scorer with the full encoding and all videos scored",
        "",
        worker.run,
        wanted="≥ 4",
        unit="events/s",
        together="worker",
    ),
]

_MODEL = [
    Benchmark(
        "incremental-vs-full-batch-64",
        "encoding 64 users at a time from their sessions",
        "encoding both histories of 64 users at a time",
        _said(incremental),
        incremental.batched,
        wanted="≥ 5",
        unit="events/s",
    ),
    Benchmark(
        "incremental-vs-full-batch-1",
        "encoding one user at a time from the user's session",
        "encoding both histories of one user at a time",
        "",
        incremental.single,
        wanted="≥ 5",
        unit="events/s",
    ),
    Benchmark(
        "top100-vs-numpy-1m",
        "the best 100 of 1 000 000 videos for 64 users, by the index",
        "by numpy, exactly",
        _said(top100),
        top100.large,
        wanted="≥ 10",
        unit="users/s",
    ),
    Benchmark(
        "top100-vs-numpy-1m-batch-1",
        "the best 100 of 1 000 000 videos for one user, by the index",
        "by numpy, exactly",
        "",
        top100.large_single,
        wanted="≥ 10",
        unit="users/s",
    ),
    Benchmark(
        "top100-vs-exact-1m",
        "the best 100 of 1 000 000 videos for 64 users, by the index",
        "by the worker's exact way",
        "",
        top100.large_exact,
        unit="users/s",
    ),
    Benchmark(
        "top100-vs-faiss-exact-1m",
        "the best 100 of 1 000 000 videos for 64 users, by the index",
        "by faiss' exact index",
        "",
        top100.large_faiss,
        unit="users/s",
    ),
    Benchmark(
        "top100-vs-numpy-100k",
        "the best 100 of 100 000 videos for 64 users, by the index",
        "by numpy, exactly",
        "",
        top100.medium,
        unit="users/s",
    ),
    Benchmark(
        "top100-vs-numpy-10k",
        "the best 100 of 10 000 videos for 64 users",
        "by numpy, exactly",
        "",
        top100.small,
        unit="users/s",
    ),
]

_ENGINE_LATENCY = (
    f"As `latency-vs-echo`, at {latency.ENGINE_RATE:,} events/s, of a worker that does everything but scoring. What it "
    "takes longer than the echo is what state, changelog, two more topics and lists of a hundred cost on the same two "
    "cores; what the whole worker takes beyond that is scoring, and waiting for it."
)

_LATENCY = [
    Benchmark(
        name,
        "the whole worker",
        "an echo of the record through the same intake",
        _said(latency) if name == latency.NAMES[0] else "",
        latency.run,
        wanted="≤ 2" if "-50-" in name else "",
        unit="ms",
        together="latency",
    )
    for name in latency.NAMES
] + [
    Benchmark(
        name,
        "the worker with a constant scorer",
        "an echo of the record through the same intake",
        _ENGINE_LATENCY if name == latency.ENGINE_NAMES[0] else "",
        latency.run_engine,
        unit="ms",
        together="engine-latency",
    )
    for name in latency.ENGINE_NAMES
]

_SCALE = [
    Benchmark(
        "two-workers-cost",
        "two workers that share the partitions",
        "one worker alone",
        _said(scaling),
        scaling.run,
        wanted="≤ 1.15",
        unit="µs of processor time per event",
        together="scaling",
    ),
    Benchmark(
        "twice-the-users-cost",
        "two workers with twice the users and events",
        "one worker alone",
        "",
        scaling.run,
        wanted="≤ 1.15",
        unit="µs of processor time per event",
        together="scaling",
    ),
    *(
        Benchmark(
            f"{count}-partitions-cost",
            f"one worker, {count} partitions",
            "one worker, one partition",
            "",
            scaling.run,
            unit="µs of processor time per event",
            together="scaling",
        )
        for count in scaling.PARTITIONS[1:]
    ),
    Benchmark(
        "recovery",
        "a worker with an empty folder: all state comes from the changelog",
        "a worker with its RocksDB, killed and started again",
        _said(recovery),
        recovery.run,
        unit="s until ready",
    ),
    Benchmark(
        "rebalance-gap",
        "the longest time without an output of a partition that stays where it is, over all rebalances of a round",
        "the same in a stretch of time without a rebalance",
        _said(rebalance),
        rebalance.run,
        wanted="a < 1 s",
        unit="s",
    ),
    *(
        Benchmark(
            f"growth-{name}",
            f"processor time per event with the most {name}",
            f"with the fewest {name}",
            _said(growth) if name == growth.AXES[0] else "",
            growth.run,
            unit="µs of processor time per event",
            together="growth",
        )
        for name in growth.AXES
    ),
]

BENCHMARKS: list[Benchmark] = [*_ENGINE, *_WORKER, *_MODEL, *_LATENCY, *_SCALE]
ABOUT = {benchmark.name: benchmark.about for benchmark in BENCHMARKS} | {soak.NAME: soak.ABOUT}
