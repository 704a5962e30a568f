"""Publish what users do, and the catalog: the client for event producers.

    from streams.publisher import Publisher, VideoView

    with Publisher("localhost:9092") as publisher:
        publisher.publish(VideoView("e1", "u17", "v3", ts_ms=1_700_000_000_000, watch_ms=21_500, actions=("like",)))
        publisher.publish({"video_id": "v3", "title": "A cat and a piano"}, topic="videos")
        publisher.remove_video("v2")

Every event is checked before it is sent, so a mistake is an `EventError` where it was made and not a dead letter later.
Sending happens in the background, in batches: `flush()`, and leaving the `with` block, wait until the broker has
confirmed everything. What it did not accept is raised as a `PublishError` by the next call, with the events in it.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from types import TracebackType
from typing import Any

import msgspec
from kafka import KafkaAdminClient, KafkaProducer
from kafka.codec import has_lz4
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata

from streams import events, topics
from streams.events import Comment, CommentInteraction, EventError, Record, Video, VideoView

__all__ = [
    "Comment",
    "CommentInteraction",
    "EventError",
    "Failure",
    "PublishError",
    "Publisher",
    "Video",
    "VideoView",
]

#: What may wait for the broker before `publish` blocks. kafka-python itself would buffer without a limit.
_PENDING_BYTES = 32 * 1024 * 1024
#: Memory that a waiting record takes beside its value: its future, its place in a batch.
_RECORD_BYTES = 1024
#: Big enough that a busy producer sends few requests; an idle one sends after `linger_ms` anyway.
_BATCH_BYTES = 128 * 1024
#: On top of the delivery timeout, before a record that the client has not reported on counts as failed.
_GRACE_S = 5.0

_TOPIC_OF: dict[type, str] = {type_: topic for topic, type_ in events.TYPES.items()}


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that the broker did not confirm. `value` is its JSON, or None for a removal."""

    topic: str
    key: str
    value: bytes | None
    reason: str


class PublishError(Exception):
    """The broker is not reachable, a topic is missing, or records were not confirmed.

    `failures` holds every record that was given to `publish` and is now known not to be confirmed; each is reported
    once. It may still have been written (a confirmation can get lost), and publishing it again is harmless: events
    are told apart by their `event_id`.
    """

    def __init__(self, message: str, failures: tuple[Failure, ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures


@dataclass(slots=True)
class _Pending:
    future: FutureRecordMetadata
    topic: str
    key: str
    value: bytes | None
    size: int
    deadline: float


class Publisher:
    """A connection to Kafka for producers of events. Threads may share one; it must be closed.

    Args:
        bootstrap_servers: `host:port`, several with commas.
        source: if given, records carry CloudEvents headers with this as `ce_source`, e.g. `/apps/android`.
        linger_ms: how long a record may wait for others, to be sent with them.
        connect_timeout_s: how long to wait for the broker before giving up.
        delivery_timeout_s: how long a record may stay unconfirmed before it is a failure.
        options: more settings of `kafka.KafkaProducer`, for instance `security_protocol` and `sasl_mechanism`.

    Raises:
        PublishError: no broker answers.
    """

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        source: str | None = None,
        linger_ms: int = 5,
        connect_timeout_s: float = 5.0,
        delivery_timeout_s: float = 120.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._servers = bootstrap_servers
        self._source = source
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._failures: list[Failure] = []
        self._known_topics: frozenset[str] = frozenset()
        self._lock = Lock()
        self._closed = False
        self._patience_s = delivery_timeout_s + _GRACE_S
        self._connection = {
            "bootstrap_servers": bootstrap_servers.split(","),
            "bootstrap_timeout_ms": int(connect_timeout_s * 1000),
            **(options or {}),
        }
        delivery_timeout_ms = int(delivery_timeout_s * 1000)
        settings = {
            # One request in flight keeps a user's events in order through retries. Retries may duplicate, which is
            # harmless here: events are told apart by their ids. kafka-python's idempotent sender would avoid that, but
            # (3.0.12) once a broker has been silent for longer than the delivery timeout it never sends again.
            "acks": "all",
            "enable_idempotence": False,
            "max_in_flight_requests_per_connection": 1,
            "linger_ms": linger_ms,
            "batch_size": _BATCH_BYTES,
            "delivery_timeout_ms": delivery_timeout_ms,
            "request_timeout_ms": max(1, min(30_000, delivery_timeout_ms - linger_ms)),
            "max_block_ms": int(connect_timeout_s * 1000),
            "compression_type": "lz4" if has_lz4() else "gzip",  # both faster than none: less to send
            "allow_auto_create_topics": False,
            "reconnect_backoff_max_ms": 1000,  # by default a broker that is back may be left alone for 30 s
            "metrics_enabled": False,
            **self._connection,
        }
        try:
            self._producer = KafkaProducer(**settings)
        except KafkaError as error:
            raise self._unreachable(error) from error

    def publish(self, event: Record | Mapping[str, Any] | bytes, *, topic: str | None = None) -> None:
        """Check an event and send it in the background.

        `event` is one of the types of this module, or the same as a mapping or as JSON in UTF-8; then `topic` says
        what it is. Blocks only while too much is unconfirmed.

        Raises:
            EventError: the event breaks the contract; nothing was sent. `.field` and `.reason` say why.
            PublishError: the topic is missing, or earlier records failed (see `.failures`); this one was not sent.
        """
        if topic is None:
            topic = _TOPIC_OF.get(type(event))
            if topic is None:
                raise TypeError(f"topic= is needed for a {type(event).__name__}: one of {', '.join(events.TYPES)}")
        value = event if isinstance(event, bytes) else _json(event)
        record = events.decode_value(topic, value, now_ms=time.time_ns() // 1_000_000)
        self._send(topic, events.key_of(topic, record), value, record)

    def remove_video(self, video_id: str) -> None:
        """Take a video out of the catalog: it is not recommended any more. Raises as `publish`."""
        self._remove(topics.VIDEOS, video_id)

    def remove_comment(self, comment_id: str) -> None:
        """Take a comment out of the catalog. Raises as `publish`."""
        self._remove(topics.COMMENTS, comment_id)

    def flush(self) -> None:
        """Wait until every record is confirmed or has failed.

        Raises:
            PublishError: some failed; they are in `.failures`.
        """
        with self._lock:
            with suppress(KafkaError):  # what it did not manage, the records themselves say
                self._producer.flush(timeout=self._patience_s if self._pending else 0)
            self._settle(0)
            self._raise_failures()

    def close(self) -> None:
        """Flush, and let go of the connection (also when flushing raises). Closing twice is allowed."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            with suppress(KafkaError):
                self._producer.close(timeout=_GRACE_S)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _remove(self, topic: str, key: str) -> None:
        if not 1 <= len(key) <= 128:
            field = events.KEY_FIELDS[topic]
            raise EventError("invalid-field", f"{field}: an id has 1 to 128 characters, not {len(key)}", field)
        self._send(topic, key, None, None)

    def _send(self, topic: str, key: str, value: bytes | None, record: Record | None) -> None:
        if self._closed:
            raise RuntimeError("the publisher is closed")
        with self._lock:
            self._settle(_PENDING_BYTES)
            self._raise_failures()
            try:
                if topic not in self._known_topics:
                    self._check_topic(topic)
                place = key.encode()
                # The partition is named here, not left to the client's partitioner: where a user's events go is part
                # of the contract between all producers and the worker's state.
                partition = topics.partition_of(place, len(self._producer.partitions_for(topic)))
                headers = None if self._source is None else _cloud_event(self._source, topic, record)
                future = self._producer.send(topic, value, place, headers, partition)
            except KafkaError as error:
                raise self._unreachable(error) from error
            size = len(value or b"") + _RECORD_BYTES
            self._pending.append(_Pending(future, topic, key, value, size, time.monotonic() + self._patience_s))
            self._pending_bytes += size

    def _settle(self, limit: int) -> None:
        """Take confirmed and failed records off the queue; wait until at most `limit` bytes are unconfirmed."""
        while self._pending and (self._pending[0].future.is_done or self._pending_bytes > limit):
            pending = self._pending[0]
            try:
                pending.future.get(max(0.0, pending.deadline - time.monotonic()))
            except KafkaError as error:
                self._failures.append(Failure(pending.topic, pending.key, pending.value, str(error)))
            self._pending.popleft()
            self._pending_bytes -= pending.size

    def _raise_failures(self) -> None:
        if self._failures:
            failures, self._failures = tuple(self._failures), []
            first = failures[0]
            raise PublishError(
                f"{len(failures)} record(s) were not confirmed by {self._servers}; the first, of {first.key!r} on "
                f"{first.topic}: {first.reason}",
                failures,
            )

    def _check_topic(self, topic: str) -> None:
        known = {key: value for key, value in self._connection.items() if key in KafkaAdminClient.DEFAULT_CONFIG}
        admin = KafkaAdminClient(**known)
        try:
            self._known_topics = frozenset(admin.list_topics())
        finally:
            admin.close()
        if topic not in self._known_topics:
            raise PublishError(f"topic {topic} does not exist on {self._servers}: create it with `lsvcr topics create`")

    def _unreachable(self, error: KafkaError) -> PublishError:
        timed_out = "" if isinstance(error, KafkaTimeoutError) else f" ({error})"
        return PublishError(
            f"no Kafka broker answers at {self._servers}: is it running, and is the address right?{timed_out}"
        )


def _json(event: Record | Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(event)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventError("not-json", f"the event can't be written as JSON: {error}") from None


def _cloud_event(source: str, topic: str, record: Record | None) -> list[tuple[str, bytes]]:
    event_id = getattr(record, "event_id", None) or str(uuid.uuid4())
    ts_ms = getattr(record, "ts_ms", None)
    moment = datetime.now(UTC) if ts_ms is None else datetime.fromtimestamp(ts_ms / 1000, UTC)
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", f"lsvcr.{topic}".encode()),
        ("ce_source", source.encode()),
        ("ce_time", moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()),
    ]
