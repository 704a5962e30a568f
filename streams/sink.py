"""Redis as a follower of the recommendation topics.

In the normal case confirmed lists go straight to Redis (partition state *live*). Redis holds, per output partition, the
offset below which it has everything; so when it was away, was emptied, or a worker died before writing, the partition
is *behind*: its topic is read from that offset on until Redis has all, and the partition is live again. The topics are
compacted, so this costs at most one record per user. Nothing is kept in memory for a Redis that is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct
from redis.exceptions import RedisError

from streams import topics
from streams.latest import LatestStore, Record
from streams.recommendations import KIND_OF
from streams.slices import Partition
from streams.telemetry import Telemetry

log = logging.getLogger(__name__)

#: Lists waiting to be written; a Redis too slow for this is treated as one that is away.
MAX_QUEUED = 20_000
RETRY_S = 0.5
_READ = 1000
_CLOSE_TRIES = 5


class RedisSink:
    """Writes confirmed recommendations to Redis. `offer` and `assign` are called on the event loop and never wait."""

    def __init__(self, store: LatestStore, bootstrap_servers: str, telemetry: Telemetry) -> None:
        self._store = store
        self._bootstrap = bootstrap_servers
        self._telemetry = telemetry
        self._queue: deque[tuple[Sequence[Record], dict[Partition, int]]] = deque()
        self._queued = 0
        self._live: set[Partition] = set()
        self._behind: set[Partition] = set()
        self._confirmed: dict[Partition, int] = {}  # per output partition, the end that this worker wrote up to
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._reader: AIOKafkaConsumer | None = None

    def start(self) -> None:
        """Start writing on the running event loop."""
        self._task = asyncio.create_task(self._run(), name="redis-sink")

    async def close(self) -> None:
        """Write what is queued if Redis takes it within a moment, then stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._emptied.wait(), 2.0)
        self._closing = True
        tries = 0
        while self._task is not None and not self._task.done() and tries < _CLOSE_TRIES:
            # More than once: a client that is just connecting, or timing out, may swallow it.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)
            tries += 1
        if self._reader is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reader.stop(), _CLOSE_TRIES)

    def assign(self, partitions: Sequence[int]) -> None:
        """These partitions are ours: make Redis whole for them, then keep it so."""
        self._live.clear()
        self._confirmed.clear()
        self._behind = {(topic, partition) for topic in topics.RECOMMENDATION_TOPICS for partition in partitions}
        self._tell()
        self._wake.set()

    def offer(self, records: Sequence[Record], positions: dict[Partition, int]) -> None:
        """Confirmed lists and, per output partition, the offset after the last of them."""
        for partition, offset in positions.items():
            self._confirmed[partition] = max(offset, self._confirmed.get(partition, 0))
        # Lists of a partition that is behind are read from its topic with the rest; writing them twice is harmless.
        advance = {partition: offset for partition, offset in positions.items() if partition in self._live}
        if not advance:
            return
        if self._queued + len(records) > MAX_QUEUED:
            self._fall_behind("Redis is too slow")
            return
        self._queue.append((records, advance))
        self._emptied.clear()
        self._queued += len(records)
        self._wake.set()

    @property
    def whole(self) -> bool:
        """Whether Redis has every confirmed list of our partitions."""
        return not self._behind and not self._queue

    async def _run(self) -> None:
        while not self._closing:
            try:
                if self._behind:
                    await self._catch_up()
                await self._write_queued()
                self._telemetry.redis_up.set(1)
                if not self._behind:
                    await self._wake.wait()
                    self._wake.clear()
            except (RedisError, OSError, TimeoutError) as error:
                self._fall_behind(f"Redis does not answer ({error})")
                await asyncio.sleep(RETRY_S)

    async def _write_queued(self) -> None:
        while self._queue:
            # Everything that waits goes out in one write: fewer round trips the slower Redis is.
            records: list[Record] = []
            positions: dict[Partition, int] = {}
            taken = len(self._queue)
            for some, advance in self._queue:
                records.extend(some)
                positions.update(advance)
            await self._write(records, {place: at for place, at in positions.items() if place in self._live})
            for _ in range(min(taken, len(self._queue))):
                self._queued -= len(self._queue.popleft()[0])
        self._emptied.set()

    async def _write(self, records: Sequence[Record], positions: dict[Partition, int]) -> None:
        refused = await self._store.write(records, positions)
        self._telemetry.redis_writes.labels("written").inc(len(records) - refused)
        if refused:
            self._telemetry.redis_writes.labels("refused-as-old").inc(refused)

    def _fall_behind(self, why: str) -> None:
        if self._live:
            log.warning("%s; recommendations go on in Kafka, and Redis is made whole when it is back", why)
        self._telemetry.redis_up.set(0)
        self._behind |= self._live
        self._live.clear()
        self._queue.clear()
        self._queued = 0
        self._tell()
        self._wake.set()

    def _tell(self) -> None:
        self._telemetry.redis_behind.set(len(self._behind))

    # --- making Redis whole -------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Bring the partitions that are behind up to the end of their topics."""
        behind = sorted(self._behind)
        stored = await self._store.positions(behind)  # first, so that a Redis that is away is found out cheaply
        reader = await self._kafka_reader()
        places = {TopicPartition(*partition): partition for partition in behind}
        first = await reader.beginning_offsets(list(places))
        end = await reader.end_offsets(list(places))
        reader.assign(list(places))
        at: dict[Partition, int] = {}
        for (place, partition), position in zip(places.items(), stored, strict=True):
            if position is not None and position > end[place]:
                log.warning("Redis is ahead of %s[%d]: the topic was made anew; starting over", *partition)
                await self._store.reset_position(*partition, first[place])
                position = None
            at[partition] = max(first[place], position or 0)
            reader.seek(place, at[partition])
        total = sum(end[place] - at[partition] for place, partition in places.items())
        if total:
            log.info("making Redis whole: reading up to %d recommendations again", total)
        while True:
            for place, partition in places.items():
                wanted = max(end[place], self._confirmed.get(partition, 0))
                if partition in self._behind and at[partition] >= wanted:
                    # No await since the comparison: the next offer for this partition is already a live one.
                    self._behind.discard(partition)
                    self._live.add(partition)
                    self._tell()
            if not self._behind.intersection(behind):
                return
            batches = await reader.getmany(timeout_ms=200, max_records=_READ)
            newest: dict[tuple[str, bytes], Record] = {}
            for place, batch in batches.items():
                for message in batch:
                    if (record := _record_of(message)) is not None:
                        newest[(place.topic, message.key)] = record
            for place, partition in places.items():
                # position() also moves past what compaction removed, which a record's offset would not
                at[partition] = max(at[partition], await reader.position(place))
            await self._write(list(newest.values()), {p: at[p] for p in behind if p in self._behind})
            # What is live goes on meanwhile: under load its queue would be full before the others have caught up.
            await self._write_queued()

    async def _kafka_reader(self) -> AIOKafkaConsumer:
        if self._reader is None:
            reader = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False, group_id=None)
            await reader.start()
            self._reader = reader
        return self._reader


class _Trigger(Struct):
    ts_ms: int


class _Head(Struct):
    """What Redis needs to know of a list; its items are skipped, not decoded."""

    user_id: str
    model_version: str
    generated_ms: int
    trigger: _Trigger


_HEAD = msgspec.json.Decoder(_Head)


def _record_of(message: Any) -> Record | None:
    if message.value is None:
        return None
    try:
        head = _HEAD.decode(message.value)
    except msgspec.DecodeError as error:
        log.warning("skipping %s[%d]@%d: %s", message.topic, message.partition, message.offset, error)
        return None
    kind = KIND_OF[message.topic]
    return kind, head.user_id, message.value, head.trigger.ts_ms, head.generated_ms, head.model_version
