"""Publish what users do, and the catalog: the client for event producers.

    from streams.publisher import Publisher, VideoView

    with Publisher("localhost:9092") as publisher:
        publisher.publish(VideoView("e1", "u17", "v3", ts_ms=1_700_000_000_000, watch_ms=21_500, actions=("like",)))
        publisher.publish({"video_id": "v3", "title": "A cat and a piano"}, topic="videos")
        publisher.remove_video("v2")

Every event is checked before it is sent, so a mistake is an `EventError` where it was made and not a dead letter later.
Sending happens in the background, in batches, and a retry leaves no duplicate: `flush()`, and leaving the `with` block,
wait until the broker has confirmed everything. What it did not confirm is raised as a `PublishError` by the next call,
with the events in it, and the call after that starts afresh.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from streams import events, topics
from streams.delivery import Delivery, Failure, PublishError, unreachable
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

_TOPIC_OF: dict[type, str] = {type_: topic for topic, type_ in events.TYPES.items()}


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
        self._known_topics: frozenset[str] = frozenset()
        self._connection = {
            "bootstrap_servers": bootstrap_servers.split(","),
            "bootstrap_timeout_ms": int(connect_timeout_s * 1000),
            **(options or {}),
        }
        self._delivery = Delivery(
            bootstrap_servers,
            self._connection,
            linger_ms=linger_ms,
            connect_timeout_s=connect_timeout_s,
            delivery_timeout_s=delivery_timeout_s,
        )

    def publish(self, event: Record | Mapping[str, Any] | bytes, *, topic: str | None = None) -> None:
        """Check an event and send it in the background.

        `event` is one of the types of this module, or the same as a mapping or as JSON in UTF-8; then `topic` says
        what it is. Blocks only while too much is unconfirmed, and to connect anew after a failure.

        Raises:
            EventError: the event breaks the contract; nothing was sent. `.field` and `.reason` say why.
            PublishError: earlier records failed (see `.failures`), the topic is missing, or no broker answers; this
                event was not sent.
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
        """Wait until every record is confirmed or has failed: no longer than the delivery timeout and a few seconds.

        Raises:
            PublishError: some failed; they are in `.failures`.
        """
        self._delivery.flush()

    def close(self) -> None:
        """Flush, and let go of the connection (also when flushing raises). Closing twice is allowed."""
        self._delivery.close()

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
        if topic not in self._known_topics:
            self._check_topic(topic)
        headers = None if self._source is None else _cloud_event(self._source, topic, record)
        self._delivery.send(topic, key, value, headers)

    def _check_topic(self, topic: str) -> None:
        known = {key: value for key, value in self._connection.items() if key in KafkaAdminClient.DEFAULT_CONFIG}
        try:
            admin = KafkaAdminClient(**known)
            try:
                self._known_topics = frozenset(admin.list_topics())
            finally:
                admin.close()
        except KafkaError as error:
            raise unreachable(self._servers, error) from error
        if topic not in self._known_topics:
            raise PublishError(f"topic {topic} does not exist on {self._servers}: create it with `lsvcr topics create`")


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
