"""An event log on disk: four JSON Lines files that `lsvcr publish` reads, one per topic, sorted by time.

with LogWriter(out, "hetrec-tags") as log:
    log.write(VideoView(...))
print(log.summary.counts)
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from streams import events, topics

#: the files of a log, in the order in which a reader wants them
FILES: dict[str, str] = {topic: f"{topic}.jsonl" for topic in events.TYPES}
_TOPIC_OF = {type_: topic for topic, type_ in events.TYPES.items()}

#: `progress(stage, done, total)`; total is 0 where it is not known.
Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


class SourceError(Exception):
    """The input can't be converted: a file is missing or is not what its name says. The message says what to do."""


@dataclass
class Summary:
    """What a conversion or simulation wrote, and what it left out."""

    source: str
    out: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILES, 0))  #: records written per topic
    dropped: Counter[str] = field(default_factory=Counter)  #: input rows left out, per reason
    notes: dict[str, int] = field(default_factory=dict)  #: other figures worth knowing, per description
    users: int = 0  #: distinct users with an event
    first_ms: int | None = None  #: time of the first event
    last_ms: int | None = None  #: time of the last event
    seconds: float = 0.0  #: how long it took


class LogWriter:
    """Writes the four files of a log, each under a temporary name until `with` ends without an exception.

    Every line is decoded again with `events.decode_value` before it is written; one that the worker would refuse is
    counted in `summary.dropped` instead. The disk is all that grows with the log: only the users' ids are kept.

    Raises:
        ValueError: events of a topic don't come in time order.
    """

    def __init__(self, out: Path, source: str, *, now_ms: int | None = None) -> None:
        self.out = out
        self.summary = Summary(source, str(out))
        self._now_ms = int(time.time() * 1000) if now_ms is None else now_ms
        self._started = time.monotonic()
        self._files: dict[str, BinaryIO] = {}
        self._last_ms = dict.fromkeys(topics.EVENT_TOPICS, -1)
        self._users: set[str] = set()

    def __enter__(self) -> LogWriter:
        self.out.mkdir(parents=True, exist_ok=True)
        for topic in FILES:
            self._files[topic] = self._part(topic).open("wb", buffering=1 << 20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files.values():
            if kind is None:
                file.flush()
                os.fsync(file.fileno())
            file.close()
        for topic, name in FILES.items():
            if kind is None:
                self._part(topic).replace(self.out / name)
            else:
                self._part(topic).unlink(missing_ok=True)
        self.summary.users = len(self._users)
        self.summary.seconds = time.monotonic() - self._started

    def write(self, record: events.Record) -> bool:
        """Write a record to the file of its topic. False: it breaks the contract and was counted as dropped."""
        return self.write_line(_TOPIC_OF[type(record)], events.encode(record))

    def write_line(self, topic: str, line: bytes) -> bool:
        """As `write`, for a record that is encoded already."""
        try:
            record = events.decode_value(topic, line, now_ms=self._now_ms)
        except events.EventError as error:
            self.drop(f"{topic}: {error.code} {error.field or ''}".rstrip())
            return False
        if isinstance(record, events.VideoView | events.CommentInteraction):
            self._clock(topic, record)
        self._files[topic].write(line + b"\n")
        self.summary.counts[topic] += 1
        return True

    def drop(self, reason: str, count: int = 1) -> None:
        """Count input that is left out on purpose."""
        if count:
            self.summary.dropped[reason] += count

    def _clock(self, topic: str, event: events.Event) -> None:
        if event.ts_ms < self._last_ms[topic]:
            raise ValueError(f"{topic}: {event.event_id} at {event.ts_ms} comes after {self._last_ms[topic]}")
        self._last_ms[topic] = event.ts_ms
        self._users.add(event.user_id)
        summary = self.summary
        summary.first_ms = event.ts_ms if summary.first_ms is None else min(summary.first_ms, event.ts_ms)
        summary.last_ms = event.ts_ms if summary.last_ms is None else max(summary.last_ms, event.ts_ms)

    def _part(self, topic: str) -> Path:
        return self.out / f".{FILES[topic]}.part"


def require(folder: Path, name: str, origin: str) -> Path:
    """The path of an input file.

    Raises:
        SourceError: it is not there; the message says where the data comes from.
    """
    path = folder / name
    if not path.is_file():
        raise SourceError(f"{path} is missing. {origin}")
    return path


def text_of(line: bytes) -> str:
    """A line as text: UTF-8 where it is valid, else Latin-1. Some public files change encoding from line to line."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
