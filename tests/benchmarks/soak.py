"""soak: the whole worker at 80 % of its highest rate for an hour (`make soak`; MINUTES=60).

100 000 videos, 5 000 users with full histories, Kafka and Redis, one worker, all on this machine. The users have events
in turn, and are more than the worker keeps sessions for: each comes back to find nothing, and takes another's place,
which is the worst case. The live counts are those of a platform that has run for long: each partition's share has as
many videos and comments as it keeps at most (`model_runtime.signals.MOST_ITEMS`) or as there are. They fill up in the
first hours of a new platform, and what they then take is no leak. The highest rate is measured first. While it runs:
the resident memory of worker, broker and Redis, and the lag (events without a confirmed list). At the end every user's
state is compared with a fold of all events that were published, and every user's newest list must cover the user's last
event: so what was lost is counted exactly, event for event.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean, median

from infra.local.stack import LocalStack
from model_runtime.signals import MOST_ITEMS, Signals
from streams import state_record, topics
from streams.live_records import share_messages
from tests.benchmarks import workload
from tests.benchmarks.metering import OUTSTANDING, Feeder, Meter, resident_bytes
from tests.benchmarks.results import Curve, Figure, Measured, Picture, Result, result
from tests.benchmarks.sides import Worker, preload
from tests.benchmarks.steady import UNCOVERED, WRONG, Steady
from tests.benchmarks.workload import COMMENTS, VIDEOS, Users, comment_id, records, video_id

NAME = "soak"
ABOUT = (__doc__ or "").split("\n\n", 1)[1]
PARTITIONS = 8
USERS = 5_000
LOAD = 0.8
WARMING = 6  #: times that every user has an event, to find the highest rate
SAMPLE_S = 5.0
A_DAY_MS = 86_400_000
CALM = 0.1  #: the part of the run after which memory should stay as it is


class Samples:
    """Memory and lag over time."""

    def __init__(self, side: Worker, others: dict[str, int]) -> None:
        self._side, self._others = side, others
        self._began = time.monotonic()
        self.minutes: list[float] = []
        self.lag: list[float] = []
        self.memory: dict[str, list[float]] = {name: [] for name in ("worker", *others)}

    def take(self) -> None:
        """One of each."""
        self._side.alive()
        health = self._side.processes[0].health()
        self.minutes.append((time.monotonic() - self._began) / 60)
        self.lag.append(float(health["lag"] or 0))
        self.memory["worker"].append(self._side.memory() / 2**20)
        for name, pid in self._others.items():
            self.memory[name].append(resident_bytes(pid) / 2**20)

    def picture(self) -> Picture:
        """Memory and lag, a panel each."""
        curves = [Curve("resident MiB", name, self.minutes, values) for name, values in self.memory.items()]
        curves.append(Curve("lag, events", "worker", self.minutes, self.lag))
        return Picture(NAME, f"{self.minutes[-1]:.0f} minutes at 80 % load", "minutes", curves)

    def grown(self) -> tuple[float, float]:
        """The worker's memory in the last tenth of the run, and in the first after it came to rest."""
        values, part = self.memory["worker"], max(1, int(len(self.minutes) * CALM))
        return fmean(values[-part:]), fmean(values[part : 2 * part])


def run(folder: Path, *, minutes: float) -> Measured:
    """The worker's memory in MiB as (at the end, at the beginning); lag and losses as figures."""
    bundle, users = workload.bundle(), Users(USERS, seed=12)
    stack = LocalStack(folder / "stack", partitions=PARTITIONS)
    with stack as info:
        meter, feeder = Meter(info.bootstrap_servers), Feeder(info.bootstrap_servers)
        states = ((key, state_record.encode(state)) for key, state in users.states())
        preload(meter, states, topics.STATE_CHANGELOG, PARTITIONS)
        items = _preload_counts(feeder)
        side = Worker(meter, folder / "worker", bundle, redis_url=info.redis_url)
        side.start()
        try:
            side.warm(feeder, users, PARTITIONS)
            for _ in range(WARMING):  # the last one counts: a broker that has just started compiles itself
                log = records(users.events(USERS), PARTITIONS)
                rate = LOAD * USERS / feeder.keep_up(log, side.answered, OUTSTANDING, side.alive)
            print(f"  {rate:,.0f} events/s for {minutes:g} minutes", flush=True)
            before = side.answered()
            status = stack.status()
            assert status.kafka_pid is not None
            assert status.redis_pid is not None
            samples = Samples(side, {"Kafka": status.kafka_pid, "Redis": status.redis_pid})
            with Steady(meter, users, rate, PARTITIONS) as steady:
                _sample(samples, steady, minutes)
            side.processes[0].wait_caught_up(120)
            account = steady.check() | {
                "lists of videos": side.answered() - before,
                "events refused": meter.count(topics.DEAD_LETTERS),
            }
        finally:
            side.stop()
    print(f"  {account}", flush=True)
    figures = [Figure.of(what, "", [count]) for what, count in account.items()]
    figures.append(Figure.of("rate", "events/s", [steady.published / (samples.minutes[-1] * 60)]))
    figures.append(Figure.of("live counts at the start, items by partition", "", [items]))
    figures.append(Figure("lag", "events", *_spread(samples.lag), len(samples.lag)))
    assert account[UNCOVERED] == account[WRONG] == 0, account
    return Measured([samples.grown()], figures, [samples.picture()])


def _preload_counts(feeder: Feeder) -> int:
    """Put full shares of live counts on their topic, where the worker reads them; returns how many there are."""
    now_ms, made = int(time.time() * 1000) - A_DAY_MS, 0
    for partition in range(PARTITIONS):
        signals = Signals()
        for kind, name, there in (("video", video_id, VIDEOS), ("comment", comment_id, COMMENTS * VIDEOS)):
            ids = [name(number) for number in range(min(there, MOST_ITEMS))]
            signals.add(kind, {partition: (ids, [now_ms] * len(ids))})
            for topic, _, key, value, _ in share_messages(signals, kind, partition, ids, 0):
                assert key is not None
                assert value is not None
                feeder.send([(topic, 0, key, value)])
            made += len(ids)
    feeder.flush()
    return made


def _sample(samples: Samples, steady: Steady, minutes: float) -> None:
    until = time.monotonic() + minutes * 60
    said = 0.0
    while (now := time.monotonic()) < until:
        samples.take()
        if now > said + 60:
            said = now
            memory = ", ".join(f"{name} {values[-1]:,.0f} MiB" for name, values in samples.memory.items())
            print(
                f"  {samples.minutes[-1]:5.1f} min: {steady.published:,} events, lag {samples.lag[-1]:,.0f}, {memory}",
                flush=True,
            )
        time.sleep(min(SAMPLE_S, max(0.0, until - time.monotonic())))


def _spread(values: list[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def row(measured: Measured) -> Result:
    """For docs/performance.json."""
    a, b = "the worker's resident memory in the last tenth of the run", "in the second tenth"
    return result(NAME, a, b, "MiB", "about 1", measured)


def main() -> None:
    from tests.benchmarks.__main__ import DOCS, earlier, ends_cleanly, write

    ends_cleanly()
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=DOCS, help="where performance.json is, which gets this row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lsvcr-soak-") as folder:
        measured = run(Path(folder), minutes=options.minutes)
    write([*(row for name, row in earlier(options.out).items() if name != NAME), row(measured)], options.out)


if __name__ == "__main__":
    main()
