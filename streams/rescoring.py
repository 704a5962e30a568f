"""From slices of events to confirmed recommendations: the worker's checkpoint protocol, in one place.

    take      a slice of a partition: decode and check each event, apply it to its user's state; each touched user is
              pending once, however many of its events arrived
    score     whatever is pending, as one micro-batch (continuous batching: what arrives meanwhile is the next one), a
              large one in a thread; a batch has one snapshot of the models, so that a swap falls between two
    send      per user: 1. the state to the table and the changelog, 2. one record per recommendation topic
    settle    once the broker confirmed all of a slice's records: 3. move the partition's watermark
    commit    Faust commits watermarks, and nothing else (`streams.intake`)

A crash between any two steps repeats events after the watermark; applying them again changes nothing, and the outputs
are sent again. On a revoked partition everything in flight is dropped: no state, no output, no watermark.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from streams import recommendations, state_record, topics
from streams.background import Background
from streams.events import CommentInteraction, EventError, VideoView, decode
from streams.history import HistoryConfig
from streams.lease import Lease
from streams.live_shares import Applied
from streams.live_topic import LiveTopic
from streams.outbox import Delivery, DeliveryError, Message, Outbox
from streams.outputs import cloud_event, lists_of
from streams.pending import Pending, Users
from streams.scoring import Scored, score
from streams.serving import Serving
from streams.slices import Ledger, Partition, Slice
from streams.table import UserStateTable
from streams.telemetry import Telemetry

log = logging.getLogger(__name__)

FORWARDED = "lsvcr-forwarded"
DRAIN_S = 5.0
#: how often states go to RocksDB
FLUSH_S = 0.05
#: for so many users that were sent, intake may take one slice
USERS_PER_TURN = 64
#: Batches of up to so many users are scored on the event loop itself: to hand them to a thread and back, and to share
#: the interpreter with it meanwhile, takes longer than their scoring does.
INLINE_USERS = 32


class Sink(Protocol):
    """Where confirmed recommendations go besides Kafka: `streams.sink.RedisSink`."""

    def offer(self, records: list[Any], positions: dict[Partition, int]) -> None:
        """Confirmed lists, and per output partition the offset after the last of them."""

    def assign(self, partitions: Sequence[int]) -> None:
        """The partitions that are ours from now on."""


class Rescorer:
    """The slice handler of `streams.intake`. All methods but the scoring itself run on the event loop."""

    topics = topics.EVENT_TOPICS

    def __init__(
        self,
        *,
        serving: Serving,
        config: HistoryConfig,
        table: UserStateTable,
        changelog: str,
        partitions: int,
        outbox: Outbox,
        telemetry: Telemetry,
        sink: Sink | None = None,
        live: LiveTopic | None = None,
        max_batch: int = 256,
        max_in_flight: int = 20_000,
        cached_states: int = 20_000,
        background: Background | None = None,
        session_timeout_s: float = 10.0,
    ) -> None:
        self.serving = serving
        self.background = background or Background()
        self.table = table
        self.changelog = changelog
        self.partitions = partitions
        self.outbox = outbox
        self.telemetry = telemetry
        self.sink = sink
        self.live = live
        self.max_batch = max_batch
        self.max_in_flight = max_in_flight
        self.ledger = Ledger()
        self.epoch = 0  # counts revocations; what was begun in an earlier epoch is dropped
        self.failure: BaseException | None = None
        self.ready = asyncio.Event()  # set once the catalog is loaded: scoring starts then
        self._lease = Lease(session_timeout_s)
        self._users = Users(table, config, max(cached_states, 4 * max_batch))
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._tasks: list[asyncio.Task[None]] = []

    # --- take ---------------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether intake has to wait for confirmations."""
        return self.ledger.records_in_flight >= self.max_in_flight

    async def has_room(self) -> None:
        """Return when another slice may be taken."""
        while self.full and self.failure is None:
            self._room.clear()
            await self._room.wait()

    def taken_up_to(self, topic: str, partition: int) -> int:
        """The offset after the last record taken since the partition became ours; 0 if none was."""
        return self.ledger.end((topic, partition))

    def take(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """One slice: records (`streams.fetcher.Record`) of one partition of an event topic, in offset order."""
        place = (topic, partition)
        slice_ = self.ledger.open(place, len(records), records[-1].offset + 1)
        self._idle.clear()
        now_ms = int(time.time() * 1000)
        rejected = forwarded = 0
        applied: list[Applied] = []
        for record in records:
            try:
                event = decode(topic, record.key, record.value, now_ms=now_ms)
            except EventError as error:
                self._reject(record, error, slice_)
                rejected += 1
                continue
            home = topics.partition_of(record.key, self.partitions)
            if home != partition:
                forwarded += self._forward(record, home, slice_)
                continue
            assert isinstance(event, VideoView | CommentInteraction)  # event topics hold nothing else
            engaged = self._users.apply(event, record, slice_)
            if self.live is not None:
                applied.append(Applied.of(event, record, engaged))
        if self.live is not None:
            self.live.take(topic, partition, applied, slice_.next_offset)
        self.telemetry.took(topic, len(records), rejected, forwarded)
        self._settle(slice_)
        if self._users.pending:
            self._wake.set()

    def _reject(self, record: Any, error: EventError, slice_: Slice) -> None:
        """To `dead-letters`: the bytes as they came, where they came from, and why. The slice waits for it."""
        headers = [
            ("error", error.code.encode()),
            ("reason", error.reason.encode()),
            ("source-topic", record.topic.encode()),
            ("source-partition", b"%d" % record.partition),
            ("source-offset", b"%d" % record.offset),
            ("source-timestamp", b"%d" % record.timestamp),
        ]
        self._send_for([slice_], [Message(topics.DEAD_LETTERS, None, record.key, record.value, headers)])
        self.telemetry.rejected(record.topic, error.code)

    def _forward(self, record: Any, home: int, slice_: Slice) -> int:
        """An event that its producer hashed to another partition: to the right one, once."""
        headers = list(record.headers)
        if any(name == FORWARDED for name, _ in headers):
            why = f"forwarded to partition {record.partition} but belongs to {home}: do the partition counts differ?"
            self._reject(record, EventError("wrong-partition", why), slice_)
            return 0
        headers.append((FORWARDED, b"%d" % record.partition))
        self._send_for([slice_], [Message(record.topic, home, record.key, record.value, headers)])
        return 1

    # --- score --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the scorer loop on the running event loop."""
        self.outbox.start()
        self._tasks = [
            asyncio.create_task(self._run(), name="rescoring"),
            asyncio.create_task(self._lease.keep()),
            asyncio.create_task(self._flush_on(), name="table"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def _run(self) -> None:
        await self.ready.wait()
        loop = asyncio.get_running_loop()
        scored: tuple[int, list[Pending], list[Scored]] | None = None
        while True:
            # The next batch is being scored while this one is sent.
            epoch, batch = self.epoch, self._users.next_batch(self.max_batch)
            for pending in batch:
                self.background.drop(pending.key)
            if not batch:  # only then: those to whom nothing happened come behind
                batch = self._users.revisit(self.background.take(), self.partitions)
            if self.live is not None:
                self.live.count_now_and_then(loop.time())
            job = partial(score, batch, self.serving, self.telemetry)
            small = 0 < len(batch) <= INLINE_USERS
            future = loop.run_in_executor(self._executor, job) if batch and not small else None
            if scored is not None:
                self._send(*scored)
                # Intake gets its turns also under load: what it brings is answered together with what waits.
                for _ in range(0, len(scored[1]), USERS_PER_TURN):
                    await asyncio.sleep(0)
                scored = None
            if small:
                began = loop.time()
                self._send(epoch, batch, job())
                # As long again for everybody else, intake first of all. What a batch costs whatever its size is then
                # shared by more users: without the rest, batches are of one or two and the machine is full at a
                # quarter of its rate. It grows with the load, and is a millisecond or two when there is none.
                await asyncio.sleep(loop.time() - began)
            elif future is not None:
                scored = (epoch, batch, await future)
            elif not self._users.pending:
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self.background.delay())

    async def _flush_on(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.table.flush()

    def swap(self, serving: Serving, config: HistoryConfig) -> int:
        """Score with other models from the next batch on. Returns how many users get their lists anew.

        Those are who were active lately (their states are at hand) and who get another version now.
        """
        before, self.serving = self.serving, serving
        self._users.config = config
        stale = [user for user in self._users.recent() if before.changes_for(user, serving)]
        self.background.put(stale)
        self._wake.set()
        return len(stale)

    # --- send ---------------------------------------------------------------------------------------------------------

    def _send(self, epoch: int, batch: list[Pending], scored: list[Scored]) -> None:
        if epoch != self.epoch:
            return
        if self._lease.expired:
            log.warning("this process was suspended; what it had in flight belongs to other workers by now")
            self.revoked()
            return
        generated_ms = int(time.time() * 1000)
        messages: list[Message] = []
        records: list[Any] = []
        stores: dict[int, list[tuple[bytes, bytes]]] = {}
        slices: list[Slice] = []
        for pending, (lists, version) in zip(batch, scored, strict=True):
            if pending.slices:  # a user to whom nothing happened has the state that is stored
                state = state_record.encode(pending.state)
                stores.setdefault(pending.partition, []).append((pending.key, state))
                messages.append(Message(self.changelog, pending.partition, pending.key, state))
            newest = pending.state.newest
            assert newest is not None  # a pending user has at least the event that made it pending
            for kind, value in lists_of(pending.user_id, newest, lists, version, generated_ms):
                topic = recommendations.TOPIC_OF[kind]
                headers = cloud_event(newest, topic, generated_ms)
                messages.append(Message(topic, pending.partition, pending.key, value, headers))
                records.append((kind, pending.user_id, value, newest.ts_ms, generated_ms, version))
            slices.extend(pending.slices)
        for partition, items in stores.items():
            self.table.write(partition, items)
        if not slices:
            self.background.under_way += len(batch)
            self.telemetry.background_users.inc(len(batch))
        arrived = [pending.arrived_ms for pending in batch if pending.slices]
        self._send_for(slices, messages, records, arrived)

    def _send_for(
        self, slices: list[Slice], messages: list[Message], records: list[Any] | None = None, arrived: Any = ()
    ) -> None:
        if records is None:
            for slice_ in slices:
                slice_.waiting += 1
        self.outbox.send(messages, (self.epoch, slices, records or [], arrived))

    def send_live(self, messages: Sequence[Message]) -> Delivery:
        """Records of `live-signals`. Nothing waits for them but whoever asks the delivery."""
        if self._lease.expired:
            self.revoked()
            messages = []
        return self.outbox.send(messages, (self.epoch, [], [], ()))

    # --- settle -------------------------------------------------------------------------------------------------------

    def settled(self, delivery: Delivery) -> None:
        """All records of a delivery are confirmed (or were purged). Called by the outbox on the event loop."""
        epoch, slices, records, arrived = delivery.context
        if epoch != self.epoch:
            return
        if delivery.error is not None:
            self._fail(DeliveryError(f"the broker refused a record: {delivery.error}"))
            return
        positions: dict[Partition, int] = {}
        for (topic, partition), offset in delivery.offsets.items():
            if topic == self.changelog:
                self.table.confirm(partition, offset)
            elif topic in topics.RECOMMENDATION_TOPICS:
                positions[(topic, partition)] = offset + 1
        if records and self.sink is not None:
            self.sink.offer(records, positions)
        if records:
            self.telemetry.recommended(arrived, len(records))
            if not slices:
                self.background.under_way -= len(records) // len(recommendations.TOPIC_OF)
        for slice_ in slices:
            self._settle(slice_)

    def _settle(self, slice_: Slice) -> None:
        if self.ledger.settle(slice_):
            self.telemetry.progressed()
            self._room.set()
            if self.ledger.records_in_flight == 0:
                self._idle.set()

    # --- the life of partitions ---------------------------------------------------------------------------------------

    def committable(self) -> dict[Partition, int]:
        """Per partition, the offset up to which everything is confirmed."""
        return self.ledger.watermarks

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Our event partitions, after their state was recovered."""
        ours = sorted({partition for _, partition in partitions})
        log.info("partitions %s: state recovered, reading events", ours)
        self._lease.renew()
        self.telemetry.assigned(ours)
        if self.sink is not None:
            self.sink.assign(ours)
        if self.live is not None:
            self.live.assigned(ours)

    async def drain(self) -> None:
        """Wait until what was taken is confirmed, for a bounded time: the group waits for us."""
        if self.ledger.records_in_flight and self.ready.is_set() and self.failure is None:
            try:
                await asyncio.wait_for(self._idle.wait(), DRAIN_S)
            except TimeoutError:
                left = self.ledger.records_in_flight
                log.warning("%d records were not confirmed in %.0f s; they will be read again", left, DRAIN_S)
        self.table.flush()
        if self.live is not None and self.failure is None:
            await self.live.flush()

    def revoked(self) -> None:
        """Drop everything in flight."""
        self.epoch += 1
        self.ledger.clear()
        self._users.clear()
        self.table.forget_unwritten()
        self.background.clear()
        if self.live is not None:
            self.live.revoked()
        self.outbox.purge()
        self.telemetry.assigned([])
        self._room.set()

    async def close(self) -> None:
        """Stop the scorer loop and the producer. Called after `drain`."""
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await self.outbox.close()
        self._executor.shutdown(wait=False)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Nothing can be confirmed any more: the worker must stop and start again from its watermarks."""
        if self.failure is None:
            log.critical("stopping: %s", error, exc_info=error)
            self.failure = error
            self._room.set()
            self.telemetry.failed(error)
