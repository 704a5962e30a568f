"""engine-vs-quix: the worker with a constant scorer against the same work on Quix Streams, on the same backlog.

Both check and decode events, apply them to users' states in RocksDB with a changelog, and write a list of 100 videos
and one of 50 comments, with the same functions of this project. Quix Streams has an environment of its own, its default
settings (at-least-once) and snappy as the worker has it; its checkpoint comes when the last event is done, not 5 s
later. Both read a backlog that was published before they start, and are timed from the first list that they write (so
that starting up does not count) until everything is confirmed by the broker: lists, changelog and, of Quix Streams, the
checkpoint's commit; of the worker, its watermarks. The events are of 10 000 users in random order; the worker answers
those of a user that arrived together with one list, as it is made to, and Quix Streams each by its own. How many lists
per event that were is in the figures.
"""

from __future__ import annotations

import time
from pathlib import Path

from support.topic_reader import read_topic
from support.traffic import make_events

from infra.local.stack import LocalStack
from tests.benchmarks import quix_environment
from tests.benchmarks.metering import Feeder, Meter
from tests.benchmarks.results import Figure, Measured
from tests.benchmarks.sides import Quix, Side, Worker
from tests.benchmarks.workload import records

USERS = 10_000
PARTITIONS = 8
PATIENCE_S = 300.0


def run(folder: Path, *, rounds: int, quick: bool) -> Measured:
    """Rates in events per second as (worker, Quix Streams), one pair per round."""
    events = 60_000 if quick else 200_000
    pairs, lists = [], []
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info:
        meter, feeder = Meter(info.bootstrap_servers), Feeder(info.bootstrap_servers)
        for kind in ("videos", "comments"):
            meter.create(f"quix-engine-{kind}", PARTITIONS)
        sides: list[Side] = [
            Worker(meter, folder / "worker", None),
            Quix(meter, folder / "quix", None, commit_every=events),
        ]
        for number in range(rounds):
            before = meter.ends(*sides[0].events)
            feeder.send(records(make_events(events, users=USERS, seed=100 + number), PARTITIONS))
            feeder.flush()
            rates = {}
            for side in sides if number % 2 else sides[::-1]:
                outputs = meter.ends(side.outputs)
                rates[side] = events / _seconds(side, before, outputs, events)
                if isinstance(side, Worker):
                    lists.append((meter.count(side.outputs) - sum(outputs.values())) / events)
            pairs.append((rates[sides[0]], rates[sides[1]]))
            a, b = pairs[-1]
            print(
                f"  round {number + 1}/{rounds}: worker {a:,.0f} events/s ({lists[-1]:.2f} lists per event), "
                f"Quix Streams {b:,.0f} events/s, ratio {a / b:.2f}",
                flush=True,
            )
    return Measured(
        pairs, [Figure.of("lists of videos per event, worker", "", lists)], also=quix_environment.versions()
    )


def _seconds(side: Side, before: dict[tuple[str, int], int], outputs: dict[tuple[str, int], int], events: int) -> float:
    """From the first list to the last confirmation."""
    side.start(before)
    try:
        until = time.monotonic() + PATIENCE_S
        while not side.confirmed():
            side.alive()
            assert time.monotonic() < until, f"{side.group} did not finish {events} events in {PATIENCE_S:.0f} s"
            time.sleep(0.02)
        ended = time.time()
        written = read_topic(side.meter.bootstrap, side.outputs, outputs)
        return ended - min(record.timestamp()[1] for record in written) / 1000
    finally:
        side.stop()
