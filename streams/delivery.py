"""Records on their way to the broker: each is confirmed, or reported as failed once.

They are sent by an idempotent producer: it numbers what it sends, and the broker drops a retry of what it has already.
Once a record has failed, nobody knows which number the broker expects next. So a producer does not outlive its first
failure: it is given up with everything that is unconfirmed, and the next record gets a new producer, with a new
producer id. (kafka-python does not do so itself: in 3.0.12, when a batch expires that was sent before, the producer
forgets its id, asks for no new one because its state stays READY, and never sends or expires anything again; and an
error that can't be retried, like a batch that is too large for the topic, fails everything that it is given later.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from kafka import KafkaProducer
from kafka.codec import has_lz4
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata

from streams import topics

#: What may wait for the broker before `send` blocks. kafka-python itself would buffer without a limit.
_PENDING_BYTES = 32 * 1024 * 1024
#: Memory that a waiting record takes beside its value: its future, its place in a batch.
_RECORD_BYTES = 1024
#: Big enough that a busy producer sends few requests; an idle one sends after `linger_ms` anyway.
_BATCH_BYTES = 128 * 1024
#: On top of the delivery timeout, before a record that the client has not reported on counts as failed.
_GRACE_S = 5.0
#: For a producer that is given up to say what became of its last records; only one that hangs takes so long.
_LAST_WORDS_S = 1.0
#: How long `flush` hurries what lingers for company. Then all of it is sent, or the broker does not take it.
_HURRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that the broker did not confirm. `value` is its JSON, or None for a removal."""

    topic: str
    key: str
    value: bytes | None
    reason: str


class PublishError(Exception):
    """The broker is not reachable, a topic is missing, or records were not confirmed.

    `failures` holds every record that was given to `publish` and is now known not to be confirmed, in the order of
    publishing; each is reported once. It may still have been written (a confirmation can get lost), and publishing it
    again is harmless: events are told apart by their `event_id`.
    """

    def __init__(self, message: str, failures: tuple[Failure, ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures


@dataclass(frozen=True, slots=True)
class _Pending:
    future: FutureRecordMetadata
    topic: str
    key: str
    value: bytes | None
    size: int
    deadline: float

    def failure(self, wait_until: float) -> str | None:
        """Why the record failed, None if it is confirmed. Not being confirmed at `wait_until` is a failure too."""
        try:
            self.future.get(max(0.0, wait_until - time.monotonic()))
        except Exception as error:  # the client fails records with its own errors, but not only
            return str(error) if self.future.is_done else "the client has not reported on it in time"
        return None


class _Producer(KafkaProducer):
    """A producer that can be closed while records are unconfirmed."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait until nothing is unconfirmed, or the time is over.

        `close` begins with a flush; if that raised, as it does in kafka-python, the producer would stay open.
        """
        with suppress(KafkaTimeoutError):
            super().flush(timeout)


class Delivery:
    """Sends records in the background, per key in order. Threads may share one; it must be closed.

    Args:
        bootstrap_servers: `host:port`, several with commas; for messages.
        connection: settings of `kafka.KafkaProducer` that say how to reach the broker, and any others to override.
        linger_ms: how long a record may wait for others, to be sent with them.
        connect_timeout_s: how long to wait for the broker before giving up.
        delivery_timeout_s: how long a record may stay unconfirmed before it is a failure.

    Raises:
        PublishError: no broker answers.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        connection: Mapping[str, Any],
        *,
        linger_ms: int,
        connect_timeout_s: float,
        delivery_timeout_s: float,
    ) -> None:
        delivery_timeout_ms = int(delivery_timeout_s * 1000)
        self._settings = {
            "acks": "all",
            "enable_idempotence": True,
            "max_in_flight_requests_per_connection": 1,  # keeps a user's events in order also through a failure
            "linger_ms": linger_ms,
            "batch_size": _BATCH_BYTES,
            "delivery_timeout_ms": delivery_timeout_ms,
            "request_timeout_ms": max(1, min(30_000, delivery_timeout_ms - linger_ms)),
            "max_block_ms": int(connect_timeout_s * 1000),
            "compression_type": "lz4" if has_lz4() else "gzip",  # both faster than none: less to send
            "allow_auto_create_topics": False,
            "reconnect_backoff_max_ms": 1000,  # by default a broker that is back may be left alone for 30 s
            "metrics_enabled": False,
            **connection,
        }
        self._servers = bootstrap_servers
        self._patience_s = delivery_timeout_s + _GRACE_S
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._failures: list[Failure] = []
        self._lock = Lock()
        self._closed = False
        self._producer: _Producer | None = None
        try:
            self._living_producer()
        except KafkaError as error:
            raise unreachable(bootstrap_servers, error) from error

    def send(self, topic: str, key: str, value: bytes | None, headers: list[tuple[str, bytes]] | None) -> None:
        """Send a record in the background. Blocks only while too much is unconfirmed, or to reconnect.

        Raises:
            PublishError: earlier records failed, or the broker can't be reached; this record was not sent.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            self._settle(_PENDING_BYTES)
            self._raise_failures()
            place = key.encode()
            try:
                producer = self._living_producer()
                # The partition is named here, not left to the client's partitioner: where a user's events go is part
                # of the contract between all producers and the worker's state.
                partition = topics.partition_of(place, len(producer.partitions_for(topic)))
                future = producer.send(topic, value, place, headers, partition)
            except KafkaError as error:
                raise unreachable(self._servers, error) from error
            size = len(value or b"") + _RECORD_BYTES
            self._pending.append(_Pending(future, topic, key, value, size, time.monotonic() + self._patience_s))
            self._pending_bytes += size

    def flush(self) -> None:
        """Wait until every record is confirmed or has failed: no longer than the delivery timeout and a few seconds.

        Raises:
            PublishError: some failed; they are in `.failures`.
        """
        with self._lock:
            self._finish()

    def close(self) -> None:
        """Flush, and let go of the connection (also when flushing raises). Closing twice is allowed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._finish()
            finally:
                if self._producer is not None:
                    self._producer.close(timeout=_GRACE_S)

    def _living_producer(self) -> _Producer:
        if self._producer is None:
            self._producer = _Producer(**self._settings)
        return self._producer

    def _finish(self) -> None:
        if self._producer is not None and self._pending:
            self._producer.flush(timeout=_HURRY_S)
        self._settle(0)
        self._raise_failures()

    def _settle(self, limit: int) -> None:
        """Take confirmed records off the queue; wait until at most `limit` bytes are unconfirmed.

        The oldest record is the first to expire, so it is enough to look at that one.
        """
        while self._pending:
            oldest = self._pending[0]
            overdue = time.monotonic() >= oldest.deadline
            if self._pending_bytes <= limit and not oldest.future.is_done and not overdue:
                return
            reason = oldest.failure(oldest.deadline)
            if reason is not None:
                self._give_up(reason)
                return
            self._pending.popleft()
            self._pending_bytes -= oldest.size

    def _give_up(self, cause: str) -> None:
        """Close the producer; all that it has not confirmed by then has failed."""
        ended = [record.future.is_done for record in self._pending]
        if self._producer is not None:
            self._producer.close(timeout=0)  # its thread fails what it has left
            self._producer = None
        end = time.monotonic() + _LAST_WORDS_S
        for number, (record, has_own_reason) in enumerate(zip(self._pending, ended, strict=True)):
            reason = record.failure(end)
            if reason is not None:
                if not has_own_reason:
                    reason = cause if number == 0 else f"given up, as before it: {cause}"
                self._failures.append(Failure(record.topic, record.key, record.value, reason))
        self._pending.clear()
        self._pending_bytes = 0

    def _raise_failures(self) -> None:
        if self._failures:
            failures, self._failures = tuple(self._failures), []
            first = failures[0]
            raise PublishError(
                f"{len(failures)} record(s) were not confirmed by {self._servers}; the first, of {first.key!r} on "
                f"{first.topic}: {first.reason}",
                failures,
            )


def unreachable(bootstrap_servers: str, error: KafkaError) -> PublishError:
    """What to tell the user when the client gave up reaching the broker."""
    timed_out = "" if isinstance(error, KafkaTimeoutError) else f" ({error})"
    return PublishError(
        f"no Kafka broker answers at {bootstrap_servers}: is it running, and is the address right?{timed_out}"
    )
