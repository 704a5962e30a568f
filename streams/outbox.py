"""The worker's producer: one idempotent librdkafka producer, and what a group of records is confirmed as.

Faust's and aiokafka's producers cost several times more per record. Records go to explicit partitions; a `Delivery` is
the group that belongs together (a user batch, a dead letter), reported on the event loop once all of it is confirmed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]

#: Records of rejected events carry up to what a broker accepts, plus headers.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: How long reports are gathered after some were served: to wake up for each of them takes longer than all else here.
#: So long for each report there was, and at most so long: with few, nothing but the wait is saved.
EACH_S = 0.0002
TOGETHER_S = 0.002
#: How long a record may wait for others of its partition. Batches form by themselves while requests are under way, and
#: with 0 a list is out a millisecond sooner where there is little to do; but the highest rate is a tenth lower, because
#: what is sent first goes alone. With .1 neither is the case: librdkafka waits in whole milliseconds.
LINGER_MS = 0.5


class Message(NamedTuple):
    """One record to send. `partition` None: the producer's partitioner (murmur2)."""

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
        self.error: KafkaError | None = None


class Outbox:
    """Sends groups of records; `on_settled(delivery)` is called on the event loop for each, confirmed or purged."""

    def __init__(
        self,
        bootstrap_servers: str,
        on_settled: Callable[[Delivery], None],
        *,
        compression: str = "lz4",
        linger_ms: float = LINGER_MS,
    ) -> None:
        self._on_settled = on_settled
        self._settled: deque[Delivery] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": "lsvcr-worker",
                "enable.idempotence": True,  # acks=all, in order, no duplicates by retries
                "partitioner": "murmur2_random",  # as the Java client; librdkafka's own default hashes otherwise
                "linger.ms": linger_ms,
                "compression.type": compression,  # lz4: states and lists shrink to a third at 1 GB/s
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1024 * 1024,
                "message.timeout.ms": 0,  # a broker that is away is waited for; intake stops when too much is in flight
                "socket.nagle.disable": True,
                "log_level": 4,
            }
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve delivery reports from now on, in a thread of their own."""
        self._loop = loop
        self._thread = threading.Thread(target=self._poll, name="outbox", daemon=True)
        self._thread.start()

    def send(self, messages: Sequence[Message], context: Any) -> Delivery:
        """Hand a group of records to librdkafka; returns at once.

        Raises:
            DeliveryError: a record can't be sent at all (too large, unknown topic, a fatal producer error).
        """
        delivery = Delivery(len(messages), context)

        def on_delivery(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                delivery.error = error
            else:
                place = (message.topic(), message.partition())
                offset = message.offset()
                if offset > delivery.offsets.get(place, -1):
                    delivery.offsets[place] = offset
            delivery.remaining -= 1
            if delivery.remaining == 0:
                self._report(delivery)

        produce = self._producer.produce
        for topic, partition, key, value, headers in messages:
            more: dict[str, Any] = {"headers": headers} if headers else {}
            if partition is not None:
                more["partition"] = partition
            while True:
                try:
                    produce(topic, value, key, on_delivery=on_delivery, **more)
                    break
                except BufferError:
                    time.sleep(0.001)  # the poll thread makes room
                except KafkaException as error:
                    raise DeliveryError(f"record for topic {topic} can't be sent: {error}") from None
        return delivery

    def purge(self) -> None:
        """Drop what was not sent yet: its partitions are no longer ours. Such deliveries settle with an error."""
        self._producer.purge(in_queue=True, in_flight=False, blocking=False)

    async def close(self, timeout_s: float = 10.0) -> None:
        """Wait for what is under way, then stop serving reports."""
        await asyncio.to_thread(self._producer.flush, timeout_s)
        self._stopped.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 2.0)

    def _poll(self) -> None:
        while not self._stopped.is_set():
            if served := self._producer.poll(0.1):
                time.sleep(min(TOGETHER_S, served * EACH_S))

    def _report(self, delivery: Delivery) -> None:
        # Append before looking: a drain that is running then either sees it, or leaves a length of one to be seen here.
        self._settled.append(delivery)
        if len(self._settled) == 1 and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while self._settled:
            self._on_settled(self._settled.popleft())
