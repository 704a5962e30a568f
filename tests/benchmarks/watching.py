"""Seeing when answers can be read: a consumer of an output topic, and Redis' notifications of written lists.

Each watcher runs in a thread of its own and notes when an answer to an event was there. Times are of one clock.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

import msgspec
import redis
from confluent_kafka import Consumer, TopicPartition

from streams.latest import list_key


class _Trigger(msgspec.Struct):
    event_id: str


class _List(msgspec.Struct):
    trigger: _Trigger


class _Event(msgspec.Struct):
    event_id: str


class Watcher(Protocol):
    """What saw which event answered, and when (Unix s)."""

    seen: dict[str, float]


class TopicWatcher:
    """Notes when the answer to each event can be read from a topic, for as long as the context lasts."""

    def __init__(self, bootstrap: str, topic: str, *, echo: bool) -> None:
        self.seen: dict[str, float] = {}
        self._decode = msgspec.json.Decoder(_Event if echo else _List).decode
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False, "log_level": 2,
                "fetch.wait.max.ms": 500, "fetch.min.bytes": 1,
            }
        )  # fmt: skip
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> TopicWatcher:
        partitions = self._consumer.list_topics(self._topic, 10).topics[self._topic].partitions
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        for place in places:
            # By number: "the end" is looked up at the first fetch, and what came before it would be missed.
            place.offset = self._consumer.get_watermark_offsets(place, 10)[1]
        self._consumer.assign(places)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            # One by one: a call for many waits for as many as asked, or for its time-out.
            record = self._consumer.poll(0.2)
            if record is None:
                continue
            now = time.time()
            assert record.error() is None, record.error()
            about = self._decode(record.value())
            self.seen.setdefault(about.event_id if isinstance(about, _Event) else about.trigger.event_id, now)


class RedisWatcher:
    """Notes when a user's list was written to Redis: the k-th write answers the user's k-th event.

    That holds where a user's events are so far apart that each is answered by itself; `expect` them before they happen.
    """

    def __init__(self, url: str) -> None:
        self.seen: dict[str, float] = {}
        self._waiting: dict[str, deque[str]] = defaultdict(deque)
        self._client = redis.Redis.from_url(url)
        self._client.config_set("notify-keyspace-events", "Kh")
        self._messages = self._client.pubsub(ignore_subscribe_messages=True)
        self._prefix = "__keyspace@0__:" + list_key("videos", "")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def expect(self, events: Iterable[tuple[str, str]]) -> None:
        """User and event, in the order in which they will be published."""
        for user, event in events:
            self._waiting[user].append(event)

    def __enter__(self) -> RedisWatcher:
        self._messages.psubscribe(self._prefix + "*")
        self._messages.get_message(timeout=1)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        self._messages.close()
        self._client.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            message = self._messages.get_message(timeout=0.2)
            if message is None or message["data"] != b"hset":
                continue
            now = time.time()
            user = message["channel"].decode()[len(self._prefix) :]
            if self._waiting[user]:
                self.seen.setdefault(self._waiting[user].popleft(), now)
