"""worker-vs-bare-faust, worker-vs-naive, worker-vs-quix: the whole worker, scoring included.

100 000 videos, users with full histories, 80 % video and 20 % comment events that all enter a history, 100 videos and
the current video's comments out. Events are published as fast as they are answered, at most 500 ahead, and users take
turns, so that every event gets a list of its own from every side (nothing is answered together). Each side first
answers every user once (the worker some more, until it has its index of the catalog), and is then timed from the first
event to the last answer and its state confirmed by the broker. A short round comes first and does not count: a broker
that has just started spends a third of its time on compiling itself, whoever is served first. Rates are events per
second on a machine that the broker and the publisher share. The naive app serves fewer users and events. Quix Streams
has an environment of its own, its default settings and snappy; its part ends with the checkpoint after the last event.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from infra.local.stack import LocalStack
from streams import state_record, topics
from tests.benchmarks import workload
from tests.benchmarks.metering import OUTSTANDING, Feeder, Meter
from tests.benchmarks.sides import NaiveApp, Quix, Side, StockAgent, Worker, preload
from tests.benchmarks.workload import Users, records

PARTITIONS = 8
AGAINST = ("bare-faust", "naive", "quix")
USERS = {"worker": 1000, "bare-faust": 1000, "naive": 100, "quix": 500}


class Run:
    """One side: its users, how many events of them are timed, and how it is made."""

    def __init__(self, side: Side, users: Users, events: int) -> None:
        self.side, self.users, self.events = side, users, events

    def rate(self, feeder: Feeder, share: float = 1.0) -> tuple[float, float]:
        """Events per second, and processor seconds per event, over a share of the events."""
        side = self.side
        side.start()
        try:
            side.warm(feeder, self.users, PARTITIONS)
            log = records(self.users.events(int(share * self.events)), PARTITIONS)
            spent, began = side.cpu(), time.monotonic()
            feeder.keep_up(log, side.answered, min(OUTSTANDING, self.users.count // 2), side.alive)
            side.settle()
            return len(log) / (time.monotonic() - began), (side.cpu() - spent) / len(log)
        finally:
            side.stop()


def run(folder: Path, *, rounds: int, quick: bool, names: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Per name, rates in events per second as (worker, other), one pair per round."""
    wanted = [other for other in AGAINST if f"worker-vs-{other}" in names]
    bundle = workload.bundle()
    pairs: dict[str, list[tuple[float, float]]] = {f"worker-vs-{other}": [] for other in wanted}
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info:
        meter, feeder = Meter(info.bootstrap_servers), Feeder(info.bootstrap_servers)
        sides = {name: _make(name, meter, folder / name, bundle, quick) for name in ("worker", *wanted)}
        if not quick:
            print("  a short round that doesn't count: a broker that has just started compiles itself", flush=True)
            for made in sides.values():
                made.rate(feeder, 0.3)
        for number in range(rounds):
            rates = {name: made.rate(feeder) for name, made in sides.items()}
            ours, our_cpu = rates["worker"]
            for other in wanted:
                rate, cpu = rates[other]
                pairs[f"worker-vs-{other}"].append((ours, rate))
                print(
                    f"  round {number + 1}/{rounds}: worker {ours:,.0f} events/s ({our_cpu * 1e6:,.0f} us of processor "
                    f"time each), {other} {rate:,.0f} ({cpu * 1e6:,.0f} us), ratio {ours / rate:.1f}",
                    flush=True,
                )
    return pairs


def _make(name: str, meter: Meter, folder: Path, bundle: Path, quick: bool) -> Run:
    users = Users(USERS[name], seed=("worker", *AGAINST).index(name))
    states = {key: state_record.encode(state) for key, state in users.states()}
    state_bytes = sum(map(len, states.values())) // len(states)
    kept = folder.with_suffix(".states")
    kept.write_bytes(msgspec.msgpack.encode(states))
    side: Side
    for topic in CREATED.get(name, ()):
        meter.create(topic, PARTITIONS)
    if name == "worker":
        side, events = Worker(meter, folder, bundle), 20_000
        preload(meter, states.items(), topics.STATE_CHANGELOG, PARTITIONS)
    elif name == "bare-faust":
        sizes = {"state_bytes": state_bytes, "output_bytes": OUTPUT_BYTES}
        side, events = StockAgent(meter, folder, partitions=PARTITIONS, **sizes), 10_000
    elif name == "naive":
        side, events = NaiveApp(meter, folder, bundle, workload.weights(), partitions=PARTITIONS, states=kept), 500
    else:
        side, events = Quix(meter, folder, bundle, commit_every=500, states=kept), 5_000
    return Run(side, users, events // 5 if quick else events)


#: the topics that a side does not make itself, with as many partitions as the events'
CREATED = {
    "bare-faust": ("stock-output", "stock-state-changelog"),
    "naive": ("naive-videos", "naive-comments", "naive-state-changelog"),
    "quix": ("quix-job-videos", "quix-job-comments"),
}
#: a list of 100 videos of 11-character ids, as the worker writes it
OUTPUT_BYTES = 4_000
