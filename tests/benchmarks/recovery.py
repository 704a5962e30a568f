"""recovery: a worker's state for a million users, from the changelog and from its own RocksDB.

Users' histories have lengths as people's have: exponential with a mean of 12 videos and as many comments, at most 50.
The worker has a constant scorer, since the model has no part in it. From the changelog: it starts with an empty folder,
as on another machine, and everything is read from Kafka on the same two cores. From RocksDB: it is killed (SIGKILL)
and started again. Timed from the start of the process until it is ready for events, so Python's imports are in both;
the rate is of the difference. After each start some users have an event, and the state that comes of it must be the
one from before with this event.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec
from support.topic_reader import changelog_tail, without_origin

from infra.local.stack import LocalStack
from streams import history, state_record, topics
from streams.history import HistoryConfig, UserState
from tests.benchmarks.metering import Feeder, Meter
from tests.benchmarks.results import Figure, Measured, Pairs
from tests.benchmarks.sides import Worker
from tests.benchmarks.workload import Users, people, records

PARTITIONS = 8
DISTINCT = 5_000  #: states; more users than that share them
CHECKED = 500


def run(folder: Path, *, rounds: int, quick: bool) -> Measured:
    """Seconds until ready as (from the changelog, from RocksDB), one pair per round."""
    count = 100_000 if quick else 1_000_000
    users = Users(count, length=people, seed=7)
    states = [state for _, state in Users(DISTINCT, length=people, seed=7).states()]
    encoded = [state_record.encode(state) for state in states]
    pairs: Pairs = []
    sizes, memory, micros = 0, [], []
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info:
        meter, feeder = Meter(info.bootstrap_servers), Feeder(info.bootstrap_servers)
        began = time.monotonic()
        for number in range(count):
            key, value = users.name(number).encode(), encoded[number % DISTINCT]
            sizes += len(key) + len(value)
            feeder.send([(topics.STATE_CHANGELOG, topics.partition_of(key, PARTITIONS), key, value)])
        feeder.flush()
        print(
            f"  {count:,} users' states, {sizes / 1e6:,.0f} MB, written in {time.monotonic() - began:.0f} s", flush=True
        )
        checked = {users.name(number): states[number % DISTINCT] for number in range(0, count, count // CHECKED)}
        for number in range(rounds):
            side = Worker(meter, folder / "worker", None)
            shutil.rmtree(folder / "worker", ignore_errors=True)
            took, spent = [], []
            for _ in ("changelog", "RocksDB"):
                began = time.monotonic()
                side.start()
                took.append(time.monotonic() - began)
                try:
                    spent.append(side.cpu())
                    _check(meter, feeder, side, checked)
                    memory.append(side.memory() / 2**20)
                finally:
                    side.processes[0].kill()
            pairs.append((took[0], took[1]))
            micros.append((spent[0] - spent[1]) / count * 1e6)
            print(
                f"  round {number + 1}/{rounds}: ready after {took[0]:.1f} s and {took[1]:.1f} s; "
                f"{micros[-1]:.1f} us of the worker's processor time a user",
                flush=True,
            )
    reading = [a - b for a, b in pairs]
    return Measured(
        pairs,
        [
            Figure.of("users recovered from the changelog", "per s", [count / s for s in reading]),
            Figure.of("read from the changelog", "MB/s", [sizes / 1e6 / s for s in reading]),
            Figure.of("processor time of the worker per user", "µs", micros),
            Figure.of("users", "", [count]),
            Figure.of("mean size of a state with its key", "B", [sizes / count]),
            Figure.of("resident memory after it", "MiB", memory),
        ],
    )


def _check(meter: Meter, feeder: Feeder, side: Worker, checked: dict[str, UserState]) -> None:
    """One event for each user of `checked` must lead from the state before to the next; moves `checked` on."""
    made = Users(len(checked), seed=int(time.time())).events(len(checked))
    log = [msgspec.structs.replace(event, user_id=name) for event, name in zip(made, checked, strict=True)]
    before, start = meter.ends(topics.STATE_CHANGELOG), side.answered()
    feeder.keep_up(records(log, PARTITIONS), side.answered, len(log), side.alive)
    side.settle()
    assert side.answered() - start == len(log)
    found = changelog_tail(meter.bootstrap, before)
    for event in log:
        checked[event.user_id] = history.apply(checked[event.user_id], event, HistoryConfig())
        assert without_origin(found[event.user_id]) == without_origin(checked[event.user_id]), event
