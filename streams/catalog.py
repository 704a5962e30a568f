"""The live catalog: which videos and comments exist right now, from the compacted topics `videos` and `comments`.

Every worker reads both topics from their beginning, whatever its partitions, and keeps the scorer's candidates up to
date: what was removed is not recommended, what is new or was changed is recommended by its text, at once.
While a topic is empty, everything in the bundle is alive (a platform that publishes no catalog still gets
recommendations). Once it has records, alive means present in it: then a removal is still a removal after its tombstone
was compacted away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from model_runtime.arrivals import Arrivals, CommentEntry, Entry, VideoEntry
from model_runtime.candidates import Candidates
from streams.events import EventError, Video, decode
from streams.telemetry import Telemetry
from streams.topics import COMMENTS, VIDEOS

log = logging.getLogger(__name__)

_READ = 5000


#: what the catalog keeps up to date
Flags = Candidates


class CatalogReader:
    """Follows the catalog topics. `loaded` is set once what was there at the start has been read."""

    def __init__(
        self, flags: Flags, bootstrap_servers: str, telemetry: Telemetry, partitions: Mapping[str, int]
    ) -> None:
        """`partitions`: the partition count of each catalog topic."""
        self._flags = flags
        self._arrivals = Arrivals(flags)
        self._places = [TopicPartition(topic, number) for topic, count in partitions.items() for number in range(count)]
        self._bootstrap = bootstrap_servers
        self._telemetry = telemetry
        self._seen: set[str] = set()  # topics that have had a record
        self.loaded = asyncio.Event()
        self.reports = True  #: to the metrics, which tell of one model's catalog
        self.task: asyncio.Task[None]  # ends only by an error

    def start(self) -> None:
        """Start reading on the running event loop."""
        self.task = asyncio.create_task(self._run(), name="catalog")

    async def close(self) -> None:
        """Stop reading."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False, group_id=None)
        await consumer.start()
        try:
            consumer.assign(self._places)
            await consumer.seek_to_beginning(*self._places)
            left = dict(await consumer.end_offsets(self._places))
            began = time.monotonic()
            while True:
                for place in [place for place in left if await consumer.position(place) >= left[place]]:
                    del left[place]
                if not left and not self.loaded.is_set():
                    self.report()
                    seconds = time.monotonic() - began
                    counts = self._flags.alive_videos(), self._flags.alive_comments()
                    log.info("catalog read in %.1f s: %d videos and %d comments can be recommended", seconds, *counts)
                    self.loaded.set()
                batches = await consumer.getmany(timeout_ms=1000, max_records=_READ)
                for (topic, _), batch in batches.items():
                    # In a thread: a batch of new texts takes longer than events should wait. Until it is taken in,
                    # nothing more is fetched, so what is waiting is bounded.
                    await asyncio.to_thread(self._apply, topic, batch)
                if batches and self.loaded.is_set():
                    self.report()
        finally:
            await consumer.stop()

    def _apply(self, topic: str, records: Sequence[Any]) -> None:
        if topic not in self._seen:
            self._seen.add(topic)
            if topic == VIDEOS:
                self._flags.set_all_videos(False)
            else:
                self._flags.set_all_comments(False)
        entries = [entry for record in records if (entry := self._entry(topic, record)) is not None]
        encoded = self._arrivals.encoded
        unknown = self._arrivals.apply(entries)
        self._telemetry.catalog_unknown.labels(topic).inc(len(unknown))
        self._telemetry.catalog_encoded.labels(topic).inc(self._arrivals.encoded - encoded)
        self._telemetry.catalog_rejected.labels(topic).inc(len(records) - len(entries))

    def _entry(self, topic: str, record: Any) -> Entry | None:
        if record.value is None:
            id_ = (record.key or b"").decode("utf-8", "replace")
            return VideoEntry(id_, None) if topic == VIDEOS else CommentEntry(id_, None)
        try:
            entry: Any = decode(topic, record.key, record.value, now_ms=0)
        except EventError as error:
            # Every worker reads the whole catalog at each start, so a dead letter for each reading would be noise.
            log.warning("skipping %s[%d]@%d: %s", topic, record.partition, record.offset, error)
            return None
        # What nobody dated is as old as the catalog's word of it.
        created_ms = entry.created_ms if entry.created_ms is not None else max(record.timestamp, 0)
        if isinstance(entry, Video):
            return VideoEntry(entry.video_id, entry.text, created_ms)
        return CommentEntry(entry.comment_id, entry.text, entry.video_id, entry.like_count or 0, created_ms)

    def report(self) -> None:
        """Tell the metrics how much is alive, if this reader is the one that tells."""
        if not self.reports:
            return
        self._telemetry.catalog.labels(VIDEOS).set(self._flags.alive_videos())
        self._telemetry.catalog.labels(COMMENTS).set(self._flags.alive_comments())
