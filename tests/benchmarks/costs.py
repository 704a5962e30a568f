"""What an event costs in processor time, for one or several workers at a broker: what scaling and growth compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.stack import LocalStack
from streams import state_record, topics
from tests.benchmarks.metering import OUTSTANDING, Feeder, Meter
from tests.benchmarks.sides import Worker, preload
from tests.benchmarks.workload import Users, records


@dataclass(frozen=True)
class Cost:
    """Of one event, in microseconds of processor time of the workers; and their resident memory afterwards, in MiB."""

    micros: float
    memory: float


class Broker:
    """A Kafka with so many partitions, and users whose states are on its changelog. Runs from `up` to `down`."""

    def __init__(self, folder: Path, partitions: int, populations: Sequence[Users]) -> None:
        self.folder, self.partitions, self.populations = folder, partitions, populations
        self._stack = LocalStack(folder / "stack", partitions=partitions)
        self._loaded = False

    def __enter__(self) -> Broker:
        bootstrap = self._stack.up().bootstrap_servers
        self._meter, self._feeder = Meter(bootstrap), Feeder(bootstrap)
        if not self._loaded:
            for users in self.populations:
                states = ((key, state_record.encode(state)) for key, state in users.states())
                preload(self._meter, states, topics.STATE_CHANGELOG, self.partitions)
            self._loaded = True
        return self

    def __exit__(self, *_: object) -> None:
        self._feeder.flush()
        del self._meter, self._feeder  # their connections end with them
        self._stack.down()

    def cost(self, users: Users, events: int, bundle: Path, *, workers: int = 1, under_way: int = OUTSTANDING) -> Cost:
        """Of `events` events, after every user was answered once; at most half as many as users are under way."""
        side = Worker(self._meter, self.folder / f"workers-{workers}", bundle, workers=workers)
        side.start()
        try:
            side.wait_shared(self.partitions)
            outstanding = min(under_way, users.count // 2)
            side.warm(self._feeder, users, self.partitions)
            log = records(users.events(events), self.partitions)
            before = side.cpu()
            self._feeder.keep_up(log, side.answered, outstanding, side.alive)
            side.settle()
            return Cost((side.cpu() - before) / events * 1e6, side.memory() / 2**20)
        finally:
            side.stop()
