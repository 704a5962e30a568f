"""Live signals between workers: each publishes the shares of its partitions, and adds up everyone's.

    count     events that entered a history, at once, slice by slice: each partition's share, and the total
    publish   each second, what changed since, and then up to which offsets the events are counted (`live_records`)
    follow    the whole topic, from its beginning; a partition's share as last published takes the place of the former

Shares are by partition and not by worker: whoever reads a partition's events goes on from its last published share, so
that a worker that leaves is neither lost nor counted twice. The new owner counts from the mark on: before its share is
read up to the topic's end of that moment, its events wait. What this leaves open after a `kill -9`: engagements of
about the last second that were confirmed but not published are never counted (`PUBLISH_S`, and what a publication
takes), and those between a share's record and its mark may be counted twice. An event read again otherwise counts once.

Counts have the time of the events. An event that claims to be later than the record it came in counts as of that
record, so that one wrong clock does not make everybody else's events old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from model_runtime.signals import KINDS, Signals
from streams.live_shares import RECORDS, Applied, Shares
from streams.outbox import Delivery, Message
from streams.slices import Partition
from streams.telemetry import Telemetry
from streams.topics import EVENT_TOPICS, LIVE_SIGNALS

log = logging.getLogger(__name__)

#: how often, at most, what was taken is counted while batches are small: how old this worker's own counts may be
COUNT_S = 0.02
#: how often a worker publishes what changed: how old another worker's counts may be, and what a kill may lose
PUBLISH_S = 1.0
#: how often one of the tallies is looked through for what faded
FADE_S = 10.0
_READ = 5000
_POLL_MS = 200


class _Owing(NamedTuple):
    """Partitions that become ours once the topic is read up to `ends`; `events`: where their events end."""

    epoch: int
    partitions: frozenset[int]
    ends: dict[TopicPartition, int]
    events: dict[Partition, int]


class LiveTopic:
    """Keeps `signals` up to date. All methods run on the event loop."""

    def __init__(
        self,
        signals: Signals,
        bootstrap_servers: str,
        partitions: int,
        send: Callable[[Sequence[Message]], Delivery],
        telemetry: Telemetry,
    ) -> None:
        """`partitions`: those of the topic. `send`: hands records to the worker's producer."""
        self.signals = signals
        self.loaded = asyncio.Event()  #: what was there at the start is read
        self.task: asyncio.Task[None]  # ends only by an error
        self._publisher: asyncio.Task[None]
        self._shares = Shares(signals, partitions)
        self._bootstrap = bootstrap_servers
        self._places = [TopicPartition(LIVE_SIGNALS, number) for number in range(partitions)]
        self._send = send
        self._telemetry = telemetry
        self._assigned: set[int] = set()  # event partitions whose shares are being read
        self._under_way: list[Delivery] = []
        self._publishing = asyncio.Lock()
        self._epoch = 0
        self._counted_s = -COUNT_S
        self._again = False  # the topic must be read from its beginning

    def take(self, topic: str, partition: int, applied: list[Applied], end: int) -> None:
        """A slice of events in offset order, up to `end`, was applied to the users' states."""
        self._shares.take(topic, partition, applied, end)

    def count_now_and_then(self, now_s: float) -> None:
        """Count what was taken, before a batch is scored; not before each of many small ones.

        `now_s` is a monotonic clock's. To count for one event takes a tenth of what all else with it does.
        """
        if now_s - self._counted_s >= COUNT_S:
            self._counted_s = now_s
            self._shares.count()

    # --- the life of partitions ---------------------------------------------------------------------------------------

    def assigned(self, partitions: Iterable[int]) -> None:
        """Event partitions are ours from now on; whoever had them has published what is to be published."""
        self._assigned = set(partitions) - self._shares.ours

    def revoked(self) -> None:
        """No partition is ours any more."""
        unconfirmed = self._publishing.locked() or any(sent.remaining for sent in self._under_way)
        self._epoch += 1
        self._assigned.clear()
        self._under_way.clear()
        # Our shares may hold what nobody will hear of: what was published counts.
        self._again = self._shares.disown() or unconfirmed or self._again

    # --- publish ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start following and publishing on the running event loop."""
        self.task = asyncio.create_task(self._follow(), name="live-signals")
        self._publisher = asyncio.create_task(self._publish_on(), name="live-signals-publisher")

    def failure(self) -> BaseException | None:
        """What ended a task that must not end."""
        for task in (self.task, self._publisher):
            if task.done() and not task.cancelled() and (error := task.exception()):
                return error
        return None

    async def close(self) -> None:
        """Stop both."""
        for task in (self.task, self._publisher):
            task.cancel()
        await asyncio.gather(self.task, self._publisher, return_exceptions=True)

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Publish what changed, and wait for a bounded time until it is confirmed: others may go on from it."""
        await self.publish()
        until = time.monotonic() + timeout_s
        # Deliveries are counted down in the producer's thread, so there is nothing to await.
        while any(sent.remaining for sent in self._under_way) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def publish(self) -> None:
        """Send what changed since the last time, then the marks."""
        async with self._publishing:
            epoch = self._epoch
            self._under_way = [sent for sent in self._under_way if sent.remaining]
            for messages in self._shares.changes():
                if messages:
                    self._under_way.append(self._send(messages))
                    self._telemetry.live_published.inc(len(messages))
                    await asyncio.sleep(0)
                if epoch != self._epoch:
                    return

    async def _publish_on(self) -> None:
        faded_at = time.monotonic()
        while True:
            began = time.monotonic()
            await self.publish()
            if began - faded_at >= FADE_S:
                faded_at = began
                self._shares.fade()
            for kind in KINDS:
                self._telemetry.live_items.labels(kind).set(len(self.signals.kinds[kind].total))
            await asyncio.sleep(max(0.0, began + PUBLISH_S - time.monotonic()))

    # --- follow -------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False, group_id=None)
        await consumer.start()
        try:
            consumer.assign(self._places)
            await self._rewind(consumer)
            left = dict(await consumer.end_offsets(self._places))
            owing: _Owing | None = None
            began = time.monotonic()
            while True:
                if self._again:
                    log.warning("what this worker counted last was not published; reading all counts again")
                    self._again = False
                    self._shares.clear()
                    await self._rewind(consumer)
                    owing = None
                if self._assigned and (owing is None or not self._expects(owing)):
                    owing = await self._owed(consumer)
                positions = {place: await consumer.position(place) for place in self._places}
                left = {place: end for place, end in left.items() if positions[place] < end}
                if not left and not self.loaded.is_set():
                    counts = [len(self.signals.kinds[kind].total) for kind in KINDS]
                    seconds = time.monotonic() - began
                    log.info("live signals read in %.1f s: %d videos and %d comments have counts", seconds, *counts)
                    self.loaded.set()
                if owing is not None and all(positions[place] >= end for place, end in owing.ends.items()):
                    if self._expects(owing):
                        self._shares.own(owing.partitions, owing.events)
                        self._assigned.clear()
                    owing = None
                for batch in (await consumer.getmany(timeout_ms=_POLL_MS, max_records=_READ)).values():
                    await self._take_in(batch)
        finally:
            await consumer.stop()

    async def _take_in(self, batch: list[Any]) -> None:
        for first in range(0, len(batch), RECORDS):
            if self._again:
                return
            heard = self._shares.hear(batch[first : first + RECORDS])
            self._telemetry.live_received.inc(heard)
            await asyncio.sleep(0)

    async def _rewind(self, consumer: AIOKafkaConsumer) -> None:
        await consumer.seek_to_beginning(*self._places)

    def _expects(self, owing: _Owing) -> bool:
        return owing.epoch == self._epoch and owing.partitions == self._assigned

    async def _owed(self, consumer: AIOKafkaConsumer) -> _Owing | None:
        epoch, assigned = self._epoch, frozenset(self._assigned)
        events = [TopicPartition(topic, partition) for topic in EVENT_TOPICS for partition in assigned]
        try:
            ends = await consumer.end_offsets([*self._places, *events])
        except KafkaError as error:
            log.warning("the end of %s is not known yet: %s", LIVE_SIGNALS, error)
            return None
        return _Owing(
            epoch,
            assigned,
            {place: ends[place] for place in self._places},
            {(place.topic, place.partition): ends[place] for place in events},
        )
