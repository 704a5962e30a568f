"""rebalance: for how long the partitions that stay with a worker stand still while another comes, goes or dies.

Workers with a constant scorer, 400 events a second, so that in every partition fifty lists a second tell how long it
stood still; what is measured is the group's and the state's part, which scoring does not change. Many more users have
states on the changelog than are active, so that a partition that moves has something to recover. Worker 0 stays; each
worker keeps a standby copy of the other's partitions. A second one
joins; leaves (SIGTERM); joins again and is killed (SIGKILL) and started at once; is killed and stays away, until the
group's session of 10 s is over. For each of these, the longest time without a list between two lists of a partition
that worker 0 had before and after. At the end every user's newest list and state must cover the user's last event. What
a partition that moves waits for is told beside it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from support.topic_reader import read_topic

from infra.local.stack import LocalStack
from streams import state_record, topics
from tests.benchmarks.metering import Feeder, Meter, wait_for
from tests.benchmarks.results import Figure, Measured, Pairs
from tests.benchmarks.sides import Worker, preload
from tests.benchmarks.steady import UNCOVERED, WRONG, Steady
from tests.benchmarks.workload import Users, people

PARTITIONS = 8
ACTIVE = 2_000
RATE = 400.0
SETTLE_S = 3.0

Window = tuple[str, float, float, frozenset[int]]  #: what happened, from and to (Unix s), the partitions that stayed


class Group:
    """Two worker slots, and what happened to the second."""

    def __init__(self, side: Worker) -> None:
        self.side = side
        self.windows: list[Window] = []
        self.first, self.second = side.processes

    def happens(self, what: str, change: Callable[[], None], share: int) -> None:
        """Let something happen, and wait until the first worker has `share` partitions and all is calm again."""
        before, began = self._ours(), time.time()
        change()
        wait_for(lambda: len(self._ours()) == share and self._answers(share), what, 90, self._alive)
        time.sleep(SETTLE_S)
        self.windows.append((what, began, time.time(), before & self._ours()))

    def _ours(self) -> frozenset[int]:
        return frozenset(self.first.health().get("partitions") or ())

    def _answers(self, share: int) -> bool:
        return share == PARTITIONS or len(self.second.health().get("partitions") or ()) == PARTITIONS - share

    def _alive(self) -> None:
        assert self.first.process.poll() is None, self.first.tail()

    def kill_and_start(self) -> None:
        """As a supervisor would do it."""
        self.second.kill()
        self.second.start()


def run(folder: Path, *, rounds: int, quick: bool) -> Measured:
    """Seconds without a list as (longest over all rebalances, without a rebalance), one pair per round."""
    idle = Users(20_000 if quick else 200_000, length=people, seed=9)
    gaps: dict[str, list[float]] = defaultdict(list)
    pairs: Pairs = []
    users = Users(ACTIVE, seed=8)
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info:
        meter, feeder = Meter(info.bootstrap_servers), Feeder(info.bootstrap_servers)
        for some in (idle, users):
            states = ((key, state_record.encode(state)) for key, state in some.states())
            preload(meter, states, topics.STATE_CHANGELOG, PARTITIONS)
        flags = ("--standbys", "1")
        side = Worker(meter, folder / "workers", None, workers=2, redis_url=info.redis_url, flags=flags)
        group = Group(side)
        meter.start_at(side.group, meter.ends(*topics.EVENT_TOPICS))
        group.first.start()
        group.first.wait_ready(300)
        try:
            side.processes = [group.first]
            side.warm(feeder, users, PARTITIONS)
            side.processes = [group.first, group.second]
            with Steady(meter, users, RATE, PARTITIONS) as steady:
                time.sleep(SETTLE_S)
                for number in range(rounds):
                    print(f"  round {number + 1}/{rounds} ...", flush=True)
                    group.windows.clear()
                    _happenings(group)
                    found = _gaps(meter, group.windows)
                    for what, (stays, any_) in found.items():
                        gaps[what].append(stays)
                        gaps[f"{what}, partitions that move"].append(any_)
                        print(f"    {what}: {stays:.2f} s; partitions that move {any_:.2f} s", flush=True)
                    longest = max(stays for what, (stays, _) in found.items() if what != "nothing")
                    pairs.append((longest, found["nothing"][0]))
            side.processes[0].wait_caught_up(60)
            account = steady.check()
            print(f"  {account}", flush=True)
            assert account[UNCOVERED] == account[WRONG] == 0, account
        finally:
            side.stop()
    figures = [Figure.of(f"longest time without a list: {what}", "s", some) for what, some in gaps.items()]
    return Measured(pairs, figures)


def _happenings(group: Group) -> None:
    half = PARTITIONS // 2
    group.happens("nothing", lambda: time.sleep(5), PARTITIONS)
    group.happens("a worker joins", lambda: void(group.second.start()), half)
    group.happens("a worker leaves", lambda: void(group.second.stop()), PARTITIONS)
    group.happens("it joins again", lambda: void(group.second.start()), half)
    group.happens("it is killed and started at once", group.kill_and_start, half)
    group.happens("it is killed and stays away", group.second.kill, PARTITIONS)


def void(_: object) -> None:
    """Nothing is made of it."""


def _gaps(meter: Meter, windows: list[Window]) -> dict[str, tuple[float, float]]:
    """Per window, the longest time without a list: of a partition that stayed, and of any other."""
    times: dict[int, list[float]] = defaultdict(list)
    for record in read_topic(meter.bootstrap, topics.VIDEO_RECOMMENDATIONS):
        times[record.partition()].append(record.timestamp()[1] / 1000)
    found = {}
    for what, began, ended, stayed in windows:
        longest = {}
        for partition in range(PARTITIONS):
            inside = sorted(at for at in times[partition] if began <= at <= ended)
            edges = [began, *inside, ended]
            longest[partition] = max(b - a for a, b in pairwise(edges))
        found[what] = (
            max(longest[p] for p in stayed),
            max((gap for p, gap in longest.items() if p not in stayed), default=0.0),
        )
    return found
