"""Batch intake: Faust's transport, changed in one place, so that records are handed over as they were read, together.

Faust's own path for one record (two asyncio tasks, an Event, sensors, an ack) costs more than everything that this
project does with it. Here the records of the event topics go, per partition and in slices, to one handler, and those of
the state's changelog (recovery, standbys) to the table. Group membership, assignment, and when to recover what stay
Faust's; aiokafka reads changelogs for it. Events are read by `streams.fetcher`, from where Faust would seek.

Commits are a watermark per partition: the handler says up to which offset everything is confirmed by the broker, and
only that is committed. Nothing is acknowledged event by event.

This module and `table.py` are the only ones that touch Faust's inner parts; `tests/streams/test_faust_pins.py` fails
when a method that is overridden or called here changes its shape.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import OFFSET_BEGINNING
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, server_list
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.transport.drivers.aiokafka import Transport as FaustTransport
from faust.types import TP

from streams.fetcher import Fetcher
from streams.table import UserStateTable

#: Records handed over at once. After so many the event loop gets its turn.
SLICE_RECORDS = 500
#: How long one poll waits when nothing comes. It asks for the partitions that flow when it begins: those that are
#: resumed meanwhile, after a rebalance, wait for its end.
POLL_S = 0.1
NO_PARTITIONS_S = 0.02
#: How long the broker may keep a fetch of changelogs that brings nothing. A partition that is assigned meanwhile is in
#: the next one, and all partitions stand still until it is recovered. Faust's 1.5 s were most of a rebalance.
FETCH_WAIT_MS = 100


class SliceHandler(Protocol):
    """What the worker implements; see `streams.rescoring.Rescorer`."""

    @property
    def topics(self) -> Sequence[str]:
        """The event topics."""

    @property
    def full(self) -> bool:
        """Whether so much is in flight that intake has to wait."""

    async def has_room(self) -> None:
        """Return when another slice may be taken. No more is read meanwhile: back-pressure reaches the broker."""

    def take(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Take one slice: records (`streams.fetcher.Record`) of one partition in offset order."""

    def taken_up_to(self, topic: str, partition: int) -> int:
        """The offset after the last record taken since the partition became ours; 0 if none was."""

    def committable(self) -> dict[tuple[str, int], int]:
        """Per (topic, partition): the offset up to which everything is confirmed."""

    def assigned(self, partitions: Iterable[tuple[str, int]]) -> None:
        """These event partitions are ours and their state is recovered."""

    async def drain(self) -> None:
        """Wait, for a bounded time, until what was taken is confirmed."""

    def revoked(self) -> None:
        """Drop everything in flight: no state, output or watermark may come of it any more."""

    async def close(self) -> None:
        """The worker stops."""


class _ConsumerThread(AIOKafkaConsumerThread):
    """Faust's, with fetches that end sooner."""

    def _create_worker_consumer(self, transport: FaustTransport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class BatchConsumer(FaustConsumer):
    """Faust's consumer, with batch intake for the handler's topics."""

    handler: SliceHandler
    logger = logging.getLogger("faust.worker")  # what Faust says is shown from WARNING on

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handler = cast(BatchTransport, self.transport).handler
        self._fetched_in = 0  # the group's generation when the last fetch began

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_start(self) -> None:
        await super().on_start()
        transport = cast(BatchTransport, self.transport)
        self._events = Fetcher(",".join(server_list(transport.url, transport.default_port)), self.app.conf.id)
        self.add_future(self._deliver())

    # --- events -------------------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """Hand over what the fetcher read, as long as the assignment it was read for lasts."""
        events, handed = self._events, 0
        while not self.should_stop:
            await events.arrived.wait()
            if events.failure is not None:
                raise events.failure
            if (round_ := events.take()) is None:
                continue
            for (topic, partition), batch in round_.read.items():
                for start in range(0, len(batch), SLICE_RECORDS):
                    if not await self._may_take(round_.epoch):
                        break
                    part = batch[start : start + SLICE_RECORDS]
                    self.handler.take(topic, partition, part)
                    handed += len(part)
                    if handed >= SLICE_RECORDS:  # not after each of many small parts: they are answered together
                        handed = 0
                        await asyncio.sleep(0)

    async def _may_take(self, epoch: int) -> bool:
        """Wait until another slice may be taken; False if it is of an assignment that is over by then."""
        while self._events.epoch == epoch and not self.should_stop:
            if not self.flow_active:  # what was read stays ours until partitions are revoked
                await self.wait(cast(Any, self.can_resume_flow))
            elif self.handler.full:
                await self.wait_first(self.handler.has_room(), self.suspend_flow.wait())
            else:
                return True
        return False

    def _are_events(self, tp: TP) -> bool:
        return tp.topic in self.handler.topics

    def highwater(self, tp: TP) -> int:
        if self._are_events(tp):
            return cast(int, self._events.end((tp.topic, tp.partition)))  # None, like Faust's, until it is known
        return super().highwater(tp)

    # --- changelogs ---------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                records, active = await self._wait_next_records(POLL_S)
                # as in Faust: a fetch may return without ever having given way to the event loop
                await self.sleep(0)
                if records is None or self.should_stop:
                    continue
                generation = self._fetched_in
                for tp, batch in records.items():
                    if self._are_events(tp):
                        continue  # fetched before they were paused; ours to read
                    if tp in active or tp in self._buffered_partitions:
                        await self._hand_over(tp, batch, generation)
                    else:  # paused meanwhile
                        await self._refuse(tp)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109 (Faust's own shape)
        # Faust's own sleeps for a second where no partition flows, as between the end of a recovery and the seek.
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))
        if not self._get_active_partitions():
            await self.sleep(NO_PARTITIONS_S)
            return None, None
        # A fetch may outlive the assignment that it began in: it then brings records of the next one, from where that
        # one begins and not from where Faust is going to seek.
        self._fetched_in = self.app.consumer_generation_id
        return await super()._wait_next_records(timeout)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109 (Faust's own shape)
        # A copy: Faust's own set may become empty during the fetch, which aiokafka takes for "all partitions". Where
        # there are but events, they are asked for as well: they are paused, and who never asks leaves the group.
        others = {tp for tp in active_partitions if not self._are_events(tp)}
        return await super()._getmany(others or set(active_partitions), timeout)

    async def _hand_over(self, tp: TP, batch: Sequence[Any], generation: int) -> None:
        if (table := self._table_of(tp)) is not None:
            await self._restore(table, tp, batch, generation)
        else:
            await self._forward_to_faust(tp, batch, generation)

    async def _restore(self, table: UserStateTable, tp: TP, batch: Sequence[Any], generation: int) -> None:
        """Changelog records of our table: into its store slice by slice, and only the last one to Faust.

        Faust learns from it how far recovery is; to apply each record itself takes it twenty times as long.
        """
        for start in range(0, len(batch), SLICE_RECORDS):
            if not self._may_go_on(generation):
                await self._refuse(tp)
                return
            # Never an older state over a newer one: before Faust has sought to where recovery begins, a fetch may bring
            # what lies before.
            done = self._restored(table, tp)
            part = [record for record in batch[start : start + SLICE_RECORDS] if record.offset > done]
            if not part:
                continue
            table.restore(tp.partition, part)
            await self._forward_to_faust(tp, part[-1:], generation)
            await asyncio.sleep(0)

    def _table_of(self, tp: TP) -> UserStateTable | None:
        """Our table, if this is a partition of its changelog."""
        table = cast(Any, self.app.tables)._changelogs.get(tp.topic)
        return table if isinstance(table, UserStateTable) else None

    def _restored(self, table: UserStateTable, tp: TP) -> int:
        """The offset of the last changelog record that the store has; -1 if it has none."""
        done = table.persisted_offset(tp)
        if done is None:  # in memory: as far as Faust knows
            recovery = cast(Any, self.app.tables).recovery
            done = (recovery.active_offsets if tp in recovery.active_tps else recovery.standby_offsets).get(tp)
        return -1 if done is None else done

    async def _refuse(self, tp: TP) -> None:
        """See to it that records which can't be taken now are read again."""
        if (table := self._table_of(tp)) is not None:
            done = self._restored(table, tp)
            await self._read_again(tp, done + 1, done + 2)

    async def _forward_to_faust(self, tp: TP, batch: Sequence[Any], generation: int) -> None:
        """Faust's own path, for records of any other topic."""
        for record in batch:
            if not self._may_go_on(generation):
                return
            read = self._read_offset[tp]
            if read is None or record.offset >= read:
                message = self._to_message(tp, record)
                await self.wait_first(self.callback(message), self.suspend_flow.wait())
                self._read_offset[tp] = record.offset

    def _may_go_on(self, generation: int) -> bool:
        stopping = self.should_stop or self._stopped.is_set()
        return self.flow_active and generation == self.app.consumer_generation_id and not stopping

    async def _read_again(self, tp: TP, first: int, behind: int) -> None:
        """The flow was suspended while a fetch was under way: what was not handed over is read again later.

        Seeking to what is committed, as Faust does, moves nothing where nothing is: all that was fetched would be lost.
        """
        if not self.should_stop:
            thread = self._thread
            await thread.call_thread(_seek_back, thread._ensure_consumer(), tp, behind, first)

    # --- commits ------------------------------------------------------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for topic, partition in self.handler.committable():
            tp = TP(topic, partition)
            if topics is None or tp in topics or topic in topics:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        return self.handler.committable().get((tp.topic, tp.partition))

    # --- the group's life ---------------------------------------------------------------------------------------------

    async def wait_empty(self) -> None:
        """Called before partitions are given up and at the end: let in-flight work finish, then commit."""
        await self.handler.drain()
        await self.commit_and_end_transactions()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        events = [TopicPartition(*tp) for tp in assigned if self._are_events(tp)]
        await self._thread.call_thread(_pause, self._thread._ensure_consumer(), events)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._events.assign({})
        await super().on_partitions_revoked(revoked)
        self.handler.revoked()

    async def perform_seek(self) -> None:
        # Faust seeks to the committed offsets after each recovery, right before the flow goes on: partitions are ours.
        # It may seek twice: what was taken in between is not taken again.
        await super().perform_seek()
        ours = [(tp.topic, tp.partition) for tp in self.assignment() if self._are_events(tp)]
        self._events.assign({place: self._begin(place) for place in ours})
        self.handler.assigned(ours)

    def _begin(self, place: tuple[str, int]) -> int:
        taken, committed = self.handler.taken_up_to(*place), self._read_offset[TP(*place)]
        return OFFSET_BEGINNING if committed is None and not taken else max(taken, committed or 0)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's stall detector reads what its own path records; ours is `streams.health`."""

    async def on_stop(self) -> None:
        self._events.assign({})
        await super().on_stop()
        await self._events.close()
        await self.handler.close()


async def _pause(consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]) -> None:
    """In the consumer's own thread."""
    consumer.pause(*places)


async def _seek_back(consumer: AIOKafkaConsumer, tp: TP, behind: int, offset: int) -> None:
    """Seek to `offset`, unless the position is not `behind` the fetch any more: then a rebalance has set it anew.

    In the consumer's own thread, and without a pause, so that nobody seeks between the look and the seek.
    """
    subscription = consumer._subscription
    if subscription.is_assigned(tp):
        state = subscription.subscription.assignment.state_value(tp)
        if state.has_valid_position and state.position >= behind:
            consumer.seek(tp, offset)


class BatchTransport(FaustTransport):
    """`app.transport = BatchTransport(handler, app.conf.broker_consumer, app)` puts batch intake in place."""

    Consumer = BatchConsumer

    def __init__(self, handler: SliceHandler, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handler = handler
