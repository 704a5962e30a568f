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
from streams.events import CommentInteraction, VideoView
from streams.live_records import mark_message, partition_of_key, share_messages, take_in
from streams.outbox import Delivery, Message
from streams.slices import Partition
from streams.telemetry import Telemetry
from streams.topics import EVENT_TOPICS, LIVE_SIGNALS

log = logging.getLogger(__name__)

#: how often a worker publishes what changed: how old another worker's counts may be, and what a kill may lose
PUBLISH_S = 1.0
#: how often one of the tallies is looked through for what faded
FADE_S = 10.0
_KIND_OF = dict(zip(EVENT_TOPICS, KINDS, strict=True))
_RECORDS = 500  # sent, or taken in, before the event loop gets its turn
_READ = 5000
_POLL_MS = 200


class Applied(NamedTuple):
    """An event that was taken: when it happened, where it stood, and what was engaged with (None: with nothing)."""

    ts_ms: int
    offset: int
    item: str | None

    @staticmethod
    def of(event: VideoView | CommentInteraction, record: Any, engaged: bool) -> Applied:
        """An event and the aiokafka record that it came in."""
        ts_ms = event.ts_ms if record.timestamp < 0 else min(event.ts_ms, record.timestamp)
        if not engaged:
            return Applied(ts_ms, record.offset, None)
        item = event.video_id if isinstance(event, VideoView) else event.comment_id
        return Applied(ts_ms, record.offset, item)


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
        self._bootstrap = bootstrap_servers
        self._places = [TopicPartition(LIVE_SIGNALS, number) for number in range(partitions)]
        self._send = send
        self._telemetry = telemetry
        self._publisher: asyncio.Task[None]
        self._assigned: set[int] = set()  # event partitions whose shares are being read
        self._ours: set[int] = set()  # event partitions whose shares we keep
        self._waiting: dict[int, list[tuple[str, list[Applied], int]]] = {}
        self._marks: dict[Partition, int] = {}  # as published
        self._counted: dict[Partition, int] = {}  # our partitions' events that are counted
        self._changed: dict[tuple[str, int], dict[str, None]] = {}
        self._under_way: list[Delivery] = []
        self._publishing = asyncio.Lock()
        self._epoch = 0
        self._again = False  # the topic must be read from its beginning
        self._fading = 0

    # --- count --------------------------------------------------------------------------------------------------------

    def take(self, topic: str, partition: int, applied: list[Applied], end: int) -> None:
        """A slice of events in offset order, up to `end`, was applied to the users' states."""
        if applied:
            self.signals.advance(max(event.ts_ms for event in applied))
        if partition in self._ours:
            self._count(topic, partition, applied, end)
        else:
            self._waiting.setdefault(partition, []).append((topic, applied, end))

    def _count(self, topic: str, partition: int, applied: list[Applied], end: int) -> None:
        kind, place = _KIND_OF[topic], (topic, partition)
        mark = self._marks.get(place, 0)
        new = [event for event in applied if event.item is not None and event.offset >= mark]
        ids = [event.item for event in new if event.item is not None]
        self.signals.add(kind, partition, ids, [event.ts_ms for event in new])
        self._changed.setdefault((kind, partition), {}).update(dict.fromkeys(ids))
        self._counted[place] = max(end, mark)

    # --- the life of partitions ---------------------------------------------------------------------------------------

    def assigned(self, partitions: Iterable[int]) -> None:
        """Event partitions are ours from now on; whoever had them has published what is to be published."""
        self._assigned = set(partitions) - self._ours

    def revoked(self) -> None:
        """No partition is ours any more."""
        unpublished = any(self._changed.values()) or any(sent.remaining for sent in self._under_way)
        self._epoch += 1
        self._ours.clear()
        self._assigned.clear()
        for kept in (self._waiting, self._counted, self._changed, self._under_way):
            kept.clear()
        # Our shares hold what nobody will hear of: what was published counts.
        self._again = self._again or unpublished or self._publishing.locked()

    def _own(self, owing: _Owing) -> None:
        """These partitions' shares are read: go on from them."""
        self._ours |= owing.partitions
        self._assigned -= owing.partitions
        for place, end in owing.events.items():
            if self._marks.get(place, 0) > end:
                log.warning("%s[%d] ends before what was counted of it: it was made anew", *place)
                self._marks[place] = 0
        for partition in owing.partitions:
            for topic, applied, end in self._waiting.pop(partition, []):
                self._count(topic, partition, applied, end)

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
            epoch, changed, counted = self._epoch, self._changed, dict(self._counted)
            self._changed = {}
            self._under_way = [sent for sent in self._under_way if sent.remaining]
            for (kind, partition), ids in changed.items():
                names, place = list(ids), partition % len(self._places)
                for first in range(0, len(names), _RECORDS):
                    messages = share_messages(self.signals, kind, partition, names[first : first + _RECORDS], place)
                    self._hand_over(list(messages))
                    await asyncio.sleep(0)
                    if epoch != self._epoch:
                        return
            marks = {place: offset for place, offset in counted.items() if offset != self._marks.get(place)}
            self._hand_over([mark_message(t, p, offset, p % len(self._places)) for (t, p), offset in marks.items()])
            self._marks.update(marks)

    def _hand_over(self, messages: list[Message]) -> None:
        if messages:
            self._under_way.append(self._send(messages))
            self._telemetry.live_published.inc(len(messages))

    async def _publish_on(self) -> None:
        faded_at = time.monotonic()
        while True:
            began = time.monotonic()
            await self.publish()
            if began - faded_at >= FADE_S:
                faded_at = began
                self._fade()
            for kind in KINDS:
                self._telemetry.live_items.labels(kind).set(len(self.signals.kinds[kind].total))
            await asyncio.sleep(max(0.0, began + PUBLISH_S - time.monotonic()))

    def _fade(self) -> None:
        """Look through one tally; they take turns. Of our partitions, others hear what faded."""
        tallies = [(kind, which) for kind in KINDS for which in (None, *sorted(self.signals.kinds[kind].shares))]
        self._fading = (self._fading + 1) % len(tallies)
        kind, partition = tallies[self._fading]
        dropped = self.signals.kinds[kind].forget(partition, self.signals.now_ms)
        if partition in self._ours and partition is not None:
            self._changed.setdefault((kind, partition), {}).update(dict.fromkeys(dropped))

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
                    self.signals.clear()
                    self._marks.clear()
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
                        self._own(owing)
                    owing = None
                for batch in (await consumer.getmany(timeout_ms=_POLL_MS, max_records=_READ)).values():
                    await self._take_in(batch)
        finally:
            await consumer.stop()

    async def _take_in(self, batch: list[Any]) -> None:
        for first in range(0, len(batch), _RECORDS):
            if self._again:
                return
            part = batch[first : first + _RECORDS]
            others = [record for record in part if partition_of_key(record.key) not in self._ours]
            take_in(others, self.signals, self._marks)
            self._telemetry.live_received.inc(len(others))
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
