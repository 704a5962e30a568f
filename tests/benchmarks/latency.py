"""latency-vs-echo: from handing an event to the producer to reading its answer, the whole worker against an echo.

Median and 99th percentile at 10, 50 and 80 % of the worker's highest rate, which is measured first, with the same
readers. The worker serves 100 000 videos to users with full histories, as in `worker-vs-bare-faust`. The echo sends
each record back as it came, through the same batch intake, producer and Redis writer, without state or scoring, at the
same rates; so what is compared is what deciding costs on top of two ways through Kafka. `topic`: a consumer has read
the list from the output topic. `redis`: Redis has said that the list was written (a keyspace notification). Both
applications run all the time, on topics of their own; stretches alternate, and those of a first round do not count: for
minutes a fresh broker's compiler takes a sixth of the machine. `after silence`: the first event after a minute in which
the application saw none. All processes share two cores with the broker, so at 80 % there is little left for readers and
broker.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from infra.local.stack import LocalStack, StackInfo
from streams import state_record, topics
from streams.events import Event
from tests.benchmarks import echo_app, workload
from tests.benchmarks.metering import OUTSTANDING, Feeder, Meter, busy_seconds
from tests.benchmarks.results import Curve, Figure, Measured, Pairs, Picture
from tests.benchmarks.sides import Echo, Side, Worker, preload
from tests.benchmarks.watching import RedisWatcher, TopicWatcher
from tests.benchmarks.workload import Record, Users, records

PARTITIONS = 8
USERS = 2000  #: so many that no user has two events within a second at any rate
LOADS = (10, 50, 80)
QUANTILES = {"median": 0.5, "p99": 0.99}
WHERE = ("topic", "redis")
NAMES = [
    *(f"latency-vs-echo-{load}-{quantile}-{where}" for load in LOADS for quantile in QUANTILES for where in WHERE),
    *(f"latency-vs-echo-after-silence-{where}" for where in WHERE),
]
#: the worker with a constant scorer: what of the latency is not scoring
ENGINE_NAMES = [f"engine-latency-vs-echo-{quantile}-{where}" for quantile in QUANTILES for where in WHERE]
#: events per second of that: about half of what a whole worker reaches on two cores, so that both can be compared
ENGINE_RATE = 1_500
_GRID = np.concatenate([np.linspace(0.01, 0.98, 98), np.linspace(0.985, 0.999, 15)])


class Lane:
    """One application with its users, and how its answers are watched."""

    def __init__(self, side: Side, users: Users, info: StackInfo, *, echo: bool) -> None:
        self.side, self.users, self.echo = side, users, echo
        #: of each stretch: events per second, cores that the application took, cores that were busy at all
        self.cores: list[tuple[float, float, float]] = []
        self._info = info

    def records(self, log: Sequence[Event]) -> list[Record]:
        """For the worker as events go; for the echo all to its one topic."""
        made = records(log, PARTITIONS)
        return [(echo_app.EVENTS, *rest) for _, *rest in made] if self.echo else made  # type: ignore[misc]

    def highest(self, feeder: Feeder, count: int) -> float:
        """Events per second when as many come as are answered, with both readers."""
        prepared = self.records(self.users.events(count))
        with (
            TopicWatcher(self._info.bootstrap_servers, self.side.outputs, echo=self.echo),
            RedisWatcher(self._info.redis_url),
        ):
            return count / feeder.keep_up(prepared, self.side.answered, OUTSTANDING, self.side.alive)

    def stretch(self, feeder: Feeder, rate: float, count: int) -> dict[str, np.ndarray]:
        """Milliseconds until each event's answer was readable, by place, at a steady rate."""
        log = self.users.events(count)
        prepared = self.records(log)
        with (
            TopicWatcher(self._info.bootstrap_servers, self.side.outputs, echo=self.echo) as topic,
            RedisWatcher(self._info.redis_url) as redis,
        ):
            redis.expect((event.user_id, event.event_id) for event in log)  # type: ignore[union-attr]
            began, own, all_ = time.monotonic(), self.side.cpu(), busy_seconds()
            sent = feeder.pace(prepared, rate)
            took = time.monotonic() - began
            self.cores.append((rate, (self.side.cpu() - own) / took, (busy_seconds() - all_) / took))
            until = time.monotonic() + 20
            while (len(topic.seen) < count or len(redis.seen) < count) and time.monotonic() < until:
                self.side.alive()
                time.sleep(0.02)
            return {
                where: _latencies(log, sent, watcher.seen) for where, watcher in zip(WHERE, (topic, redis), strict=True)
            }


def _latencies(log: Sequence[Event], sent: Sequence[float], seen: dict[str, float]) -> np.ndarray:
    """Milliseconds per event; one that was answered together with its user's next event has that one's answer."""
    answers: dict[str, float] = {}
    found = []
    for event, at in zip(reversed(log), reversed(sent), strict=True):
        own, later = seen.get(event.event_id), answers.get(event.user_id)  # type: ignore[union-attr]
        answer = own if own is not None else later
        assert answer is not None, f"{event} was never answered"
        answers[event.user_id] = answer  # type: ignore[union-attr]
        found.append((answer - at) * 1000)
    return np.array(found)


def run(folder: Path, *, rounds: int, quick: bool, names: list[str]) -> dict[str, Measured]:
    """Milliseconds as (worker, echo), one pair per round, for each name."""
    bundle = workload.bundle()
    seconds, silence = (3.0, 10.0) if quick else (15.0, 60.0)
    pairs: dict[str, Pairs] = {name: [] for name in NAMES}
    pooled: dict[tuple[int, str, bool], list[np.ndarray]] = defaultdict(list)
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info, ExitStack() as running:
        feeder = Feeder(info.bootstrap_servers, **{"linger.ms": 0})
        lanes = _lanes(folder, info, bundle)
        _start(lanes, feeder, running)
        highest = lanes[0].highest(feeder, 1_500 if quick else 5_000)
        print(f"  highest rate: {highest:,.0f} events/s", flush=True)
        for load in LOADS if not quick else ():  # does not count
            for lane in lanes:
                lane.stretch(feeder, highest * load / 100, int(highest * load / 100 * seconds))
        for number in range(rounds):
            for load in LOADS:
                rate = highest * load / 100
                took = {}
                for lane in lanes if number % 2 == 0 else lanes[::-1]:
                    took[lane.echo] = lane.stretch(feeder, rate, int(rate * seconds))
                    for where, some in took[lane.echo].items():
                        pooled[load, where, lane.echo].append(some)
                _note(pairs, f"latency-vs-echo-{load}", took, f"{number + 1}/{rounds}")
            first = _after_silence(feeder, lanes, silence)
            for where in WHERE:
                name = f"latency-vs-echo-after-silence-{where}"
                _append(pairs, name, [first[echo][where] for echo in (False, True)], f"{number + 1}/{rounds}")
    measured = {name: Measured(pairs[name]) for name in names}
    measured[names[0]].figures = [
        Figure.of("highest rate of the worker", "events/s", [highest]),
        *(figure for load in LOADS for figure in _cores(lanes, highest * load / 100, f"at {load} %")),
    ]
    measured[names[0]].pictures = [_picture(pooled)]
    return measured


def run_engine(folder: Path, *, rounds: int, quick: bool, names: list[str]) -> dict[str, Measured]:
    """As `run`, of the worker with a constant scorer at one steady rate.

    It takes the same work as in `run` but for scoring: checks, states, changelog, both lists, confirmations.
    """
    seconds = 3.0 if quick else 15.0
    pairs: dict[str, Pairs] = {name: [] for name in ENGINE_NAMES}
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info, ExitStack() as running:
        feeder = Feeder(info.bootstrap_servers, **{"linger.ms": 0})
        lanes = _lanes(folder, info, None)
        _start(lanes, feeder, running)
        for number in range(rounds + (not quick)):
            took = {}
            for lane in lanes if number % 2 == 0 else lanes[::-1]:
                took[lane.echo] = lane.stretch(feeder, ENGINE_RATE, int(ENGINE_RATE * seconds))
            if number == 0 and not quick:
                continue  # does not count
            _note(pairs, "engine-latency-vs-echo", took, f"{number + quick}/{rounds}")
    measured = {name: Measured(pairs[name]) for name in names}
    measured[names[0]].figures = _cores(lanes, ENGINE_RATE, f"at {ENGINE_RATE:,} events/s")
    return measured


def _cores(lanes: Sequence[Lane], rate: float, when: str) -> list[Figure]:
    """What a rate kept busy, of all stretches with it."""
    figures = []
    for lane in lanes:
        some = [(own, all_) for at, own, all_ in lane.cores if at == rate]
        what = "echo" if lane.echo else "worker"
        figures += [
            Figure.of(f"busy cores of the machine, {what} {when}", "", [all_ for _, all_ in some]),
            Figure.of(f"of them the {what}'s process {when}", "", [own for own, _ in some]),
        ]
    return figures


def _start(lanes: Sequence[Lane], feeder: Feeder, running: ExitStack) -> None:
    for lane in lanes:
        lane.side.start()
        running.callback(lane.side.stop)
        if not lane.echo:
            lane.side.warm(feeder, lane.users, PARTITIONS)
        lane.highest(feeder, 500)


def _note(pairs: dict[str, Pairs], what: str, took: dict[bool, dict[str, np.ndarray]], round_: str) -> None:
    """The quantiles of one stretch of each application; `took` by whether it was the echo."""
    for where in WHERE:
        for quantile, share in QUANTILES.items():
            name = f"{what}-{quantile}-{where}"
            _append(pairs, name, [float(np.quantile(took[echo][where], share)) for echo in (False, True)], round_)


def _append(pairs: dict[str, Pairs], name: str, values: Sequence[float], round_: str) -> None:
    a, b = values
    pairs[name].append((a, b))
    print(f"  round {round_}: {name}: {a:.1f} ms against {b:.1f} ms", flush=True)


def _lanes(folder: Path, info: StackInfo, bundle: Path | None) -> list[Lane]:
    meter = Meter(info.bootstrap_servers)
    for topic in (echo_app.EVENTS, echo_app.ECHOES):
        meter.create(topic, PARTITIONS)
    users = Users(USERS, seed=1)
    states = ((key, state_record.encode(state)) for key, state in users.states())
    preload(meter, states, topics.STATE_CHANGELOG, PARTITIONS)
    worker = Worker(meter, folder / "worker", bundle, redis_url=info.redis_url)
    echo = Echo(meter, folder / "echo", redis_url=info.redis_url, partitions=PARTITIONS)
    return [Lane(worker, users, info, echo=False), Lane(echo, Users(USERS, seed=2), info, echo=True)]


def _after_silence(feeder: Feeder, lanes: Sequence[Lane], silence: float) -> dict[bool, dict[str, float]]:
    """The latency of one event to each application, each after so many seconds without one."""
    found = {}
    time.sleep(silence - silence / len(lanes))
    for lane in lanes:
        time.sleep(silence / len(lanes))
        found[lane.echo] = {where: float(some[0]) for where, some in lane.stretch(feeder, 1.0, 1).items()}
    return found


def _picture(pooled: dict[tuple[int, str, bool], list[np.ndarray]]) -> Picture:
    curves = []
    for (load, where, echo), some in sorted(pooled.items()):
        curves.append(
            Curve(
                f"share of events ({load} % load, {where})",
                "echo" if echo else "worker",
                np.quantile(np.concatenate(some), _GRID).tolist(),
                _GRID.tolist(),
            )
        )
    return Picture("latency", "From event to readable answer", "milliseconds", curves, x_log=True)
