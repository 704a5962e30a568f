"""The live catalog: which videos and comments exist right now, from the compacted topics `videos` and `comments`.

Every worker reads both topics from their beginning, whatever its partitions, and keeps the scorer's flags up to date.
While a topic is empty, everything in the bundle is alive (a platform that publishes no catalog still gets
recommendations). Once it has records, alive means present in it: then a removal is still a removal after its tombstone
was compacted away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.events import EventError, decode
from streams.telemetry import Telemetry
from streams.topics import COMMENTS, VIDEOS

log = logging.getLogger(__name__)

_READ = 5000


class Flags(Protocol):
    """The scorer's side of the catalog: `model_runtime.candidates.Candidates`."""

    def set_video(self, video_id: str, alive: bool) -> bool:
        """Returns whether the bundle knows the video."""

    def set_comment(self, comment_id: str, alive: bool) -> bool:
        """Returns whether the bundle knows the comment."""

    def set_all_videos(self, alive: bool) -> None: ...

    def set_all_comments(self, alive: bool) -> None: ...

    def alive_videos(self) -> int: ...

    def alive_comments(self) -> int: ...


class CatalogReader:
    """Follows the catalog topics. `loaded` is set once what was there at the start has been read."""

    def __init__(
        self, flags: Flags, bootstrap_servers: str, telemetry: Telemetry, partitions: Mapping[str, int]
    ) -> None:
        """`partitions`: the partition count of each catalog topic."""
        self._flags = flags
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
                for batch in batches.values():
                    for record in batch:
                        self._apply(record)
                    await asyncio.sleep(0)
                if batches and self.loaded.is_set():
                    self.report()
        finally:
            await consumer.stop()

    def _apply(self, record: Any) -> None:
        topic = record.topic
        if topic not in self._seen:
            self._seen.add(topic)
            if topic == VIDEOS:
                self._flags.set_all_videos(False)
            else:
                self._flags.set_all_comments(False)
        set_alive = self._flags.set_video if topic == VIDEOS else self._flags.set_comment
        if record.value is None:
            set_alive((record.key or b"").decode("utf-8", "replace"), False)
            return
        try:
            entry = decode(topic, record.key, record.value, now_ms=0)
        except EventError as error:
            # Every worker reads the whole catalog at each start, so a dead letter for each reading would be noise.
            log.warning("skipping %s[%d]@%d: %s", topic, record.partition, record.offset, error)
            self._telemetry.catalog_rejected.labels(topic).inc()
            return
        if not set_alive(entry.video_id if topic == VIDEOS else entry.comment_id, True):  # type: ignore[union-attr]
            self._telemetry.catalog_unknown.labels(topic).inc()

    def report(self) -> None:
        """Tell the metrics how much is alive, if this reader is the one that tells."""
        if not self.reports:
            return
        self._telemetry.catalog.labels(VIDEOS).set(self._flags.alive_videos())
        self._telemetry.catalog.labels(COMMENTS).set(self._flags.alive_comments())
