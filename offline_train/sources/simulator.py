"""A seeded video platform: users with interests that drift, videos and comments about something, and what happens.

    simulator = Simulator(SimulatorConfig(seed=1))
    videos, comments = simulator.catalog()
    for event in simulator.events(): ...
    simulator.write(Path("log"))
    for topic, record in simulator.live(now_ms=now, rate=50): ...   # goes on where the log ends, without an end

The same configuration gives the same events; only the random numbers of the seed decide. The truth behind it is in
`simulator.oracle()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from offline_train.sources.oracle import Oracle
from offline_train.sources.simulator_config import SimulatorConfig
from offline_train.sources.timeline import Timeline
from offline_train.sources.writer import LogWriter, Progress, no_progress
from streams.events import Comment, CommentInteraction, Event, Record, Video, VideoView

__all__ = ["Oracle", "Simulator", "SimulatorConfig"]


class Simulator:
    """One simulation. Its methods may be called in any order and any number of times; each gives the same again."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self._end: Timeline | None = None

    def catalog(self) -> tuple[list[Video], list[Comment]]:
        """All videos and comments there are when the log ends, in the order of creation."""
        run = self._ended()
        comments = run.platform.comments
        order = np.argsort(comments.written_ms, kind="stable")
        # The log may end before the last visitors are done: what they wrote after it belongs to the live stream.
        order = order[(comments.author[order] < 0) | (comments.written_ms[order] <= run.last_ms - self.config.start_ms)]
        return (
            [run.video(row) for row in range(len(run.titles))],
            [run.comment(row) for row in order.tolist()],
        )

    def events(self) -> Iterator[Event]:
        """The log's events in time order. Memory does not grow with their number."""
        run = Timeline(self.config)
        for batch in run.log():
            yield from run.events(batch)

    def oracle(self) -> Oracle:
        """The truth behind the log."""
        platform, config = self._ended().platform, self.config
        users, videos, comments = platform.users, platform.videos, platform.comments
        return Oracle(config.seed, config.topics, config.start_ms, users, videos, comments)

    def live(self, now_ms: int, rate: float) -> Iterator[tuple[str, Record]]:
        """Topic and record, without an end, going on where the log ends; `rate` records a second from `now_ms` on.

        The users go on; new videos and comments keep appearing, each as a catalog record before its first event. The
        stream does not wait: pacing it is up to the caller. The simulated clock runs as slowly as the rate allows.

        Raises:
            ValueError: the rate is not above 0.
        """
        if not rate > 0:
            raise ValueError(f"rate must be above 0 records a second, not {rate}")
        run = Timeline(self.config)
        for _ in run.log():
            pass
        for number, (topic, record) in enumerate(run.forever(rate)):
            ts_ms = now_ms + int(number * 1000 / rate)
            if isinstance(record, VideoView | CommentInteraction):
                yield topic, msgspec.structs.replace(record, ts_ms=ts_ms)
            else:
                yield topic, msgspec.structs.replace(record, created_ms=ts_ms)

    def write(self, out: Path, progress: Progress = no_progress) -> LogWriter:
        """Write the four files of the log and `oracle.npz` into the folder `out`."""
        run = Timeline(self.config)
        with LogWriter(out, f"simulator, seed {self.config.seed}") as log:
            for batch in run.log():
                for event in run.events(batch):
                    log.write(event)
                progress("simulating", run.told, self.config.interactions)
            self._end = run
            for catalog in self.catalog():
                for record in catalog:
                    log.write(record)
            self.oracle().save(out / "oracle.npz")
        return log

    def _ended(self) -> Timeline:
        if self._end is None:
            run = Timeline(self.config)
            for _ in run.log():
                pass
            self._end = run
        return self._end
