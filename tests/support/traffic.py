"""Generated events, and a producer for tests that may hash and key them as badly as it likes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Producer

from streams import events
from streams.events import CommentInteraction, Event, VideoView
from streams.topics import COMMENT_INTERACTIONS, VIDEO_VIEWS

START_MS = 1_700_000_000_000


def make_events(
    count: int, *, users: int, videos: int = 200, comments_per_video: int = 5, seed: int = 0
) -> list[Event]:
    """Events in time order, a few at the same millisecond, a fifth of them on comments, some not engagements."""
    rng = random.Random(seed)
    made: list[Event] = []
    ts_ms = START_MS
    for i in range(count):
        ts_ms += rng.choice((0, 1, 50, 1000))
        user, video = f"user-{rng.randrange(users):05d}", f"video-{rng.randrange(videos):05d}"
        if rng.random() < 0.2:
            comment = f"comment-{video[-5:]}-{rng.randrange(comments_per_video)}"
            action = rng.choice(("view", "expand", "like", "reply", "write"))
            made.append(CommentInteraction(f"c{seed}-{i}", user, video, comment, ts_ms, action))
        else:
            watched = rng.choice((500, 19_000, 60_000))
            actions = rng.choice((None, None, None, ("like",), ("hate",)))
            made.append(VideoView(f"v{seed}-{i}", user, video, ts_ms, watched, 60_000, actions))
    return made


def topic_of(event: Event) -> str:
    return VIDEO_VIEWS if isinstance(event, VideoView) else COMMENT_INTERACTIONS


def publish(
    bootstrap: str, log: Iterable[Event], *, rate: float | None = None, partitioner: str = "murmur2_random"
) -> int:
    """Publish events in order, at `rate` a second at most; returns how many the broker confirmed."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": partitioner, "linger.ms": 5, "log_level": 2})
    confirmed = 0

    def on_delivery(error: Any, _: Any) -> None:
        nonlocal confirmed
        assert error is None, error
        confirmed += 1

    began = time.monotonic()
    for sent, event in enumerate(log):
        if rate is not None and sent % 100 == 0:
            time.sleep(max(0.0, sent / rate - (time.monotonic() - began)))
        while len(producer) > 50_000:
            producer.poll(0.01)
        producer.produce(topic_of(event), events.encode(event), event.user_id, on_delivery=on_delivery)
        producer.poll(0)
    assert producer.flush(60) == 0
    return confirmed
