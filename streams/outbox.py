"""The worker's producer: all that goes to one broker goes in one request, and a group of records is confirmed as one.

A broker handles the requests of a connection one after another. librdkafka puts one partition into a request, so what a
batch of users sends, three topics by as many partitions as the users have, waits for a dozen answers. Here it is one
request: what comes while it is under way is the next one. Sending is aiokafka's: an idempotent producer, which retries
until the broker is back, with batches that are filled here (`append`, in C), since `AIOKafkaProducer.send` makes a
future of each record. A `Delivery` is the group that belongs together (a user batch, a dead letter), reported on the
event loop once all of it is confirmed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, UnknownTopicOrPartitionError

from streams.topics import Headers, partition_of

log = logging.getLogger(__name__)

#: Records of rejected events carry up to what a broker accepts, plus headers.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: Of a partition's part in a request, before compression. Brokers take 1 MB after it, if not told otherwise.
BATCH_BYTES = 1_000_000
#: Of a request. Brokers take 100 MB. Requests of 4 MB made the worker a tenth slower on a backlog, where the event loop
#: has so much to do that each takes long.
REQUEST_BYTES = 32_000_000
RECONNECT_S = 0.5


class Message(NamedTuple):
    """One record to send. `partition` None: by the key, as Kafka's own clients do; any, if it has none."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


class DeliveryError(RuntimeError):
    """The broker refused a record for good. The worker must stop: what is not confirmed is repeated after a restart."""


class Delivery:
    """A group of records under way. `offsets`: the highest confirmed offset per (topic, partition)."""

    __slots__ = ("context", "error", "offsets", "remaining")

    def __init__(self, remaining: int, context: Any) -> None:
        self.remaining = remaining
        self.context = context
        self.offsets: dict[tuple[str, int], int] = {}
        self.error: str | None = None


_Place = tuple[str, int | None]
#: of one place: the records of each group, in the order of the calls
_Waiting = deque[tuple[Delivery, list[Message]]]


class Outbox:
    """Sends groups of records; `on_settled(delivery)` is called for each, confirmed or purged. For one event loop."""

    def __init__(
        self, bootstrap_servers: str, on_settled: Callable[[Delivery], None], *, compression: str = "snappy"
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._compression = None if compression == "none" else compression
        self._on_settled = on_settled
        self._waiting: dict[_Place, _Waiting] = {}  # those that waited longest first
        self._under_way: dict[int | None, asyncio.Task[None]] = {}  # one request per broker
        self._partitions: dict[str, int] = {}  # how many, by topic
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer | None = None

    def start(self) -> None:
        """Send from now on. Called on the event loop."""
        self._task = asyncio.create_task(self._run(), name="outbox")
        self._task.add_done_callback(self._ended)

    def send(self, messages: Sequence[Message], context: Any) -> Delivery:
        """Queue a group of records; returns at once. Those of one partition are sent in the order of the calls.

        Raises:
            DeliveryError: a record is too large for any broker of ours, or sending has ended; nothing was queued.
        """
        if self._task is not None and self._task.done():
            raise DeliveryError("the producer has ended")
        for message in messages:
            if len(message.value or b"") > MAX_MESSAGE_BYTES:
                raise DeliveryError(f"a record for topic {message.topic} has {len(message.value or b''):,} bytes")
        delivery = Delivery(len(messages), context)
        by_place: dict[_Place, list[Message]] = {}
        for message in messages:
            by_place.setdefault(message[:2], []).append(message)
        for place, some in by_place.items():
            self._waiting.setdefault(place, deque()).append((delivery, some))
        self._wake.set()
        return delivery

    def purge(self) -> None:
        """Drop what was not sent yet: its partitions are no longer ours. Such deliveries settle with an error."""
        self._fail_waiting("purged")

    async def close(self, timeout_s: float = 10.0) -> None:
        """Wait until everything is confirmed, for a bounded time, then let go of the connections."""
        until = time.monotonic() + timeout_s
        while (self._waiting or self._under_way) and self._task and not self._task.done():
            if time.monotonic() > until:
                log.warning("records were not confirmed in %.0f s; what they answer will be read again", timeout_s)
                break
            await asyncio.sleep(0.01)
        for task in (self._task, *self._under_way.values()):
            if task is not None:
                task.cancel()
        if self._producer is not None:
            await _stop(self._producer)

    # --- the requests -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        producer = self._producer = await self._connected()
        leader = producer.client.cluster.leader_for_partition
        while True:
            await self._wake.wait()
            self._wake.clear()
            for place in [p for p in self._waiting if p[1] is None or p[0] not in self._partitions]:
                await self._find(producer, *place)
            by_broker: dict[int | None, list[tuple[str, int]]] = {}
            for topic, partition in self._waiting:
                if partition is None or topic not in self._partitions:
                    continue  # came while the others were looked for
                if (broker := leader(TopicPartition(topic, partition))) not in self._under_way:
                    by_broker.setdefault(broker, []).append((topic, partition))
            for broker, places in by_broker.items():
                self._under_way[broker] = asyncio.create_task(self._request(producer, broker, places))

    async def _connected(self) -> AIOKafkaProducer:
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap_servers,
                client_id="lsvcr-worker",
                enable_idempotence=True,  # acks=all, in order, no duplicates by retries, and no giving up
                compression_type=self._compression,
                max_batch_size=BATCH_BYTES,
                linger_ms=0,  # batches form while requests are under way
            )
            try:
                await producer.start()
                return producer
            except KafkaConnectionError as error:
                log.warning("no broker yet for what is to be sent: %s", error)
                await producer.stop()
                await asyncio.sleep(RECONNECT_S)

    async def _find(self, producer: AIOKafkaProducer, topic: str, partition: int | None) -> None:
        """Learn of a topic, and move what was to go to any of its partitions to where Kafka's clients would send it."""
        while topic not in self._partitions:
            try:
                self._partitions[topic] = len(await producer.partitions_for(topic))
            except UnknownTopicOrPartitionError:  # after a while: so it is also when no broker answers
                log.error("waiting to write to topic %s: create it (lsvcr topics create), or start the broker", topic)
        if partition is None:
            count = self._partitions[topic]
            for delivery, messages in self._waiting.pop((topic, None), ()):
                for message in messages:
                    at = random.randrange(count) if message.key is None else partition_of(message.key, count)
                    self._waiting.setdefault((topic, at), deque()).append((delivery, [message]))

    async def _request(self, producer: AIOKafkaProducer, broker: int | None, places: list[tuple[str, int]]) -> None:
        """One request to one broker: of each partition what waits, as far as it fits."""
        sent: list[tuple[tuple[str, int], list[tuple[Delivery, int]], asyncio.Future[Any]]] = []
        now_ms, room = int(time.time() * 1000), REQUEST_BYTES
        try:
            for place in places:
                if room <= 0:
                    break
                queue = self._waiting.pop(place, None)  # purged meanwhile, perhaps
                if queue is None:
                    continue
                batch, deliveries, full = producer.create_batch(), [], False
                while queue and not full:
                    delivery, messages = queue.popleft()
                    taken = 0
                    for _, _, key, value, headers in messages:
                        if batch.append(timestamp=now_ms, key=key, value=value, headers=headers or []) is None:
                            full = True
                            break
                        taken += 1
                    if full:
                        queue.appendleft((delivery, messages[taken:]))
                    if taken:
                        deliveries.append((delivery, taken))
                room -= batch.size()
                if queue:
                    self._waiting[place] = queue
                try:
                    sent.append((place, deliveries, await producer.send_batch(batch, place[0], partition=place[1])))
                except Exception as error:  # whatever it is: they were not confirmed
                    self._settle(place, deliveries, error)
            for place, deliveries, future in sent:
                try:
                    self._settle(place, deliveries, (await future).offset)
                except Exception as error:
                    self._settle(place, deliveries, error)
        finally:
            del self._under_way[broker]
            if self._waiting:
                self._wake.set()

    # --- what became of them ------------------------------------------------------------------------------------------

    def _settle(
        self, place: tuple[str, int], deliveries: Sequence[tuple[Delivery, int]], result: int | Exception
    ) -> None:
        """`result` is the offset of the first record; -1 if the broker knows of them, but no more where they are."""
        records = 0
        for delivery, count in deliveries:
            records += count
            if isinstance(result, Exception):
                delivery.error = f"{type(result).__name__}: {result}"
            elif result >= 0:
                delivery.offsets[place] = result + records - 1  # in order, so this is the highest
            self._less(delivery, count)

    def _less(self, delivery: Delivery, count: int) -> None:
        delivery.remaining -= count
        if delivery.remaining == 0:
            self._on_settled(delivery)

    def _fail_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for queue in waiting.values():
            for delivery, messages in queue:
                delivery.error = why
                self._less(delivery, len(messages))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("nothing can be sent any more", exc_info=error)
            self._fail_waiting(str(error))


async def _stop(producer: AIOKafkaProducer) -> None:
    """Let go of the connections, and of what was handed over and not confirmed.

    `stop` waits for a broker that is away; given up, it leaves its sender at work, which sends them when the broker is
    back, whatever we said of them.
    """
    with suppress(TimeoutError, KafkaError):
        await asyncio.wait_for(producer.stop(), 1.0)
        return
    for closing in (producer._sender.close(), producer.client.close()):
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(closing, 1.0)
