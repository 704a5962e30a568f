"""The archiver: both event topics and both catalogs to Parquet, each record exactly once (`lsvcr archive`).

    go on     from the offsets that the archive's own file names tell; nothing is committed anywhere else
    read      all partitions, into one buffer per partition
    flush     a buffer that is full or old: one file per date; the next flush begins when this one is complete
    compact   many small files of one date into one, which stands for them from the moment it is there

A kill between any two steps leaves at most one incomplete flush, or small files beside the one made of them: both are
told by their names, and deleted at the next start. One archiver per archive.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from confluent_kafka import Consumer, KafkaException, TopicPartition

from model_runtime.stores import FolderStore, Store
from streams import topics
from streams.archive_files import TOPICS, ArchiveError, Part, Row, Source, Survey, decode_rows, encode_rows, survey
from streams.events import EventError, decode
from streams.whole_topic import first_and_end

log = logging.getLogger(__name__)

_TIMEOUT_S = 15.0
Granularity = Literal["day", "month"]
_DATE = {"day": "%Y-%m-%d", "month": "%Y-%m"}


@dataclass(frozen=True)
class ArchiveSettings:
    """When buffers are written, and when files are compacted."""

    flush_records: int = 50_000  #: of one partition
    flush_s: float = 60.0  #: the longest that a record waits
    compact_files: int = 16  #: so many files of one date and partition become one
    compact_rows: int = 1_000_000  #: files with half of this are large enough to stay as they are
    partition_by: Granularity = "day"  #: months suit old logs with few events a day


@dataclass
class ArchiveSummary:
    """What a run did."""

    records: int = 0
    rejected: int = 0  #: of them, what a worker would not accept
    files: int = 0
    compacted: int = 0
    lost: int = 0  #: had left the topics before they were archived
    archived: dict[str, int] = field(default_factory=dict)  #: records by topic


class Archiver:
    """Reads the topics and writes the archive. A context manager: it holds the archive while it runs."""

    def __init__(self, store: Store, bootstrap_servers: str, settings: ArchiveSettings | None = None) -> None:
        self._store = store
        self._bootstrap = bootstrap_servers
        self._settings = settings or ArchiveSettings()
        self._buffers: dict[Source, list[Row]] = defaultdict(list)
        self._since: dict[Source, float] = {}
        self._parts: dict[tuple[Source, str], list[Part]] = defaultdict(list)
        self._lock: TextIO | None = None
        self.summary = ArchiveSummary()

    def __enter__(self) -> Archiver:
        if isinstance(self._store, FolderStore):
            try:
                self._store.root.mkdir(parents=True, exist_ok=True)
                self._lock = open(self._store.root / ".lock", "w")  # held until __exit__
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveError(f"another archiver writes {self._store.root}; there must be one only") from None
            except OSError as error:
                raise ArchiveError(f"{self._store.root} can't be written ({error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def run(
        self,
        stopped: threading.Event,
        *,
        until_end: bool = False,
        progress: Callable[[int, int], None] = lambda done, left: None,
    ) -> ArchiveSummary:
        """Archive until told to stop, or, with `until_end`, until everything that is there now is archived.

        `progress` is told how many records this run has read, and how many it knows to be left.

        Raises:
            ArchiveError: the broker is away, topics are missing, or the archive is not of these topics.
            StoreError: the archive can't be written; what it holds stays whole, and the next run goes on from there.
        """
        found = self._clean_up()
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "lsvcr-archive",  # offsets are never committed to it
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 65_536,
                "log_level": 2,
            }
        )
        try:
            ends = self._assign(consumer, found)
            while not stopped.is_set():
                for record in consumer.consume(5000, 0.5):
                    if record.error() is not None:
                        raise KafkaException(record.error())
                    self._take(record)
                self._flush_what_is_due()
                left = self._left(consumer, ends)
                progress(self.summary.records, left)
                if until_end and not left:
                    break
            for source in list(self._buffers):
                self._flush(source)
        except KafkaException as error:
            raise ArchiveError(f"reading from {self._bootstrap} failed ({error}); start again: it goes on") from None
        finally:
            consumer.close()
        return self.summary

    # --- go on --------------------------------------------------------------------------------------------------------

    def _clean_up(self) -> Survey:
        """Delete what a kill left behind; what counts."""
        if isinstance(self._store, FolderStore):
            self._store.sweep()
        found = survey(name for topic in TOPICS for name in self._store.names(topic))
        for part in found.useless:
            self._store.delete(part.name)
        for part in found.parts:
            self._parts[part.source, part.date].append(part)
        return found

    def _assign(self, consumer: Consumer, found: Survey) -> dict[Source, int]:
        """Assign all partitions at where the archive ends; the ends of the topics."""
        places: list[TopicPartition] = []
        ends: dict[Source, int] = {}
        for topic in TOPICS:
            about = consumer.list_topics(topic, _TIMEOUT_S).topics[topic]
            if about.error is not None:
                raise ArchiveError(f"no topic {topic} on {self._bootstrap}; run `lsvcr topics create`")
            for partition in about.partitions:
                low, high = first_and_end(consumer, topic, partition)
                source = (topic, partition)
                at = found.next_offset.get(source, low)
                if at > high:
                    raise ArchiveError(
                        f"the archive holds {topic}[{partition}] up to offset {at}, but the topic ends at {high}: it "
                        f"was made anew. Archive it to another place than {self._store.uri}"
                    )
                if at < low and topic in topics.EVENT_TOPICS:
                    self.summary.lost += low - at
                    log.error(
                        "%d records of %s[%d] left the topic before they were archived", low - at, topic, partition
                    )
                places.append(TopicPartition(topic, partition, max(at, low)))
                ends[source] = high
        consumer.assign(places)
        return ends

    def _left(self, consumer: Consumer, ends: dict[Source, int]) -> int:
        places = consumer.position([TopicPartition(topic, partition) for topic, partition in ends])
        # Below 0: nothing was read of it yet, because there is nothing, or not yet.
        starts = {(place.topic, place.partition): place.offset for place in consumer.assignment()}
        at = {
            (place.topic, place.partition): place.offset if place.offset >= 0 else starts[place.topic, place.partition]
            for place in places
        }
        return sum(max(0, end - at[source]) for source, end in ends.items())

    # --- read ---------------------------------------------------------------------------------------------------------

    def _take(self, record: Any) -> None:
        source = (record.topic(), record.partition())
        if not self._buffers[source]:
            self._since[source] = time.monotonic()
        self._buffers[source].append(row := row_of(record, now_ms=int(time.time() * 1000)))
        self.summary.records += 1
        self.summary.rejected += row.error is not None
        self.summary.archived[record.topic()] = self.summary.archived.get(record.topic(), 0) + 1

    # --- flush --------------------------------------------------------------------------------------------------------

    def _flush_what_is_due(self) -> None:
        now = time.monotonic()
        for source, rows in list(self._buffers.items()):
            full = len(rows) >= self._settings.flush_records
            if rows and (full or now - self._since[source] >= self._settings.flush_s):
                self._flush(source)

    def _flush(self, source: Source) -> None:
        """Write what a partition's buffer holds, one file per date."""
        rows = self._buffers.pop(source, [])
        if not rows:
            return
        by_date: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_date[date_of(row, self._settings.partition_by)].append(row)
        parts = []
        for number, (date, some) in enumerate(sorted(by_date.items()), 1):
            part = Part(*source, rows[0].offset, rows[-1].offset, number, len(by_date), date, len(some))
            self._store.put(part.name, encode_rows(some))
            parts.append(part)
        self.summary.files += len(parts)
        log.info("%s[%d] archived up to offset %d: %d records", *source, rows[-1].offset, len(rows))
        for part in parts:  # only now are the files of the flush before none of the last one's
            self._compact(source, part.date)
            self._parts[source, part.date].append(part)

    # --- compact ------------------------------------------------------------------------------------------------------

    def _compact(self, source: Source, date: str) -> None:
        """Make the small files of a date into one, if there are many. Called between two flushes of the partition."""
        kept: list[Part] = []
        run: list[Part] = []
        limit = self._settings.compact_rows
        for part in [*sorted(self._parts[source, date]), None]:
            small = part is not None and part.rows * 2 < limit
            if part is None or not small or sum(one.rows for one in run) + part.rows > limit:
                # Only neighbours become one file: it stands for everything between its ends.
                kept += [self._merge(run)] if len(run) >= self._settings.compact_files else run
                run = []
            if part is not None:
                (run if small else kept).append(part)
        self._parts[source, date] = kept

    def _merge(self, run: list[Part]) -> Part:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.concat_tables(decode_rows(self._store.get(part.name)) for part in run)
        first, last = run[0], run[-1]
        merged = Part(first.topic, first.partition, first.first, last.last, 1, 1, first.date, table.num_rows)
        out = pyarrow.BufferOutputStream()
        parquet.write_table(table, out, compression="zstd")
        self._store.put(merged.name, out.getvalue().to_pybytes())
        for part in run:
            self._store.delete(part.name)
        self.summary.compacted += len(run)
        return merged


def row_of(record: Any, *, now_ms: int) -> Row:
    """The row of a record (confluent_kafka's); what the worker would reject has `error`."""
    topic, key, value = record.topic(), record.key(), record.value()
    error = None
    ids: tuple[str | None, str | None, str | None, int | None] = (None, None, None, None)
    if value is not None or topic in topics.EVENT_TOPICS:  # no value in a catalog: a removal
        try:
            event = decode(topic, key, value, now_ms=now_ms)
            ids = tuple(getattr(event, name, None) for name in ("user_id", "video_id", "comment_id", "ts_ms"))  # type: ignore[assignment]
        except EventError as problem:
            error = f"{problem.code}: {problem.reason}"
    return Row(record.offset(), record.timestamp()[1], key, value, error, *ids)


def date_of(row: Row, granularity: Granularity) -> str:
    """The date of a row, UTC: when the event happened; of anything else, the record's time."""
    ms = row.timestamp_ms if row.ts_ms is None else row.ts_ms
    return datetime.fromtimestamp(max(0, ms) / 1000, UTC).strftime(_DATE[granularity])
