"""Redis as a follower of the recommendation topics: it ends up whole whatever it missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from confluent_kafka import Producer
from redis.asyncio import Redis

from model_runtime.items import encode_items
from streams.latest import LatestStore, list_key
from streams.recommendations import TOPIC_OF, Trigger, encode_videos
from streams.sink import RedisSink
from streams.telemetry import Telemetry
from streams.topics import VIDEO_RECOMMENDATIONS

pytestmark = pytest.mark.integration


def a_list(user: str, ts_ms: int) -> bytes:
    trigger = Trigger("video-views", 0, ts_ms, f"e{ts_ms}", ts_ms)
    return encode_videos(user, "m1", ts_ms + 5, "model", trigger, encode_items(["a", "b"], [1.0, 0.5]))


def produce(bootstrap: str, lists: list[tuple[str, int]], partition: int = 0) -> int:
    """Lists on the topic; returns the offset after the last."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2})
    end = 0

    def on_delivery(_: object, message: object) -> None:
        nonlocal end
        end = message.offset() + 1  # type: ignore[attr-defined]

    for user, ts_ms in lists:
        producer.produce(VIDEO_RECOMMENDATIONS, a_list(user, ts_ms), user, partition, on_delivery=on_delivery)
    producer.flush(30)
    return end


def run(redis_url: str, bootstrap: str, body: Callable[[RedisSink, Redis, LatestStore], Awaitable[None]]) -> None:
    async def main() -> None:
        redis = Redis.from_url(redis_url)
        await redis.flushdb()
        store = LatestStore(redis)
        sink = RedisSink(store, bootstrap, Telemetry())
        sink.start()
        try:
            await body(sink, redis, store)
        finally:
            await sink.close()
            await redis.aclose()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "Redis was not made whole within 30 s"
        await asyncio.sleep(0.02)


def test_what_redis_missed_is_read_from_the_topic(fresh_topics: str, redis_url: str) -> None:
    end = produce(fresh_topics, [(f"u{i % 50}", 1000 + i) for i in range(3_000)])

    async def body(sink: RedisSink, redis: Redis, store: LatestStore) -> None:
        sink.assign([0])
        await until(lambda: sink.whole)
        for user in range(50):
            newest = 1000 + max(i for i in range(3_000) if i % 50 == user)
            assert await store.read("videos", f"u{user}") == a_list(f"u{user}", newest)
        assert await store.positions([(VIDEO_RECOMMENDATIONS, 0)]) == [end]

    run(redis_url, fresh_topics, body)


def test_live_lists_move_the_position_and_an_emptied_redis_is_filled_again(fresh_topics: str, redis_url: str) -> None:
    async def body(sink: RedisSink, redis: Redis, store: LatestStore) -> None:
        place = (VIDEO_RECOMMENDATIONS, 0)
        sink.assign([0])
        await until(lambda: sink.whole)
        end = await asyncio.to_thread(produce, fresh_topics, [("u1", 10), ("u2", 11)])
        records = [("videos", user, a_list(user, ts), ts, ts + 5, "m1") for user, ts in (("u1", 10), ("u2", 11))]
        sink.offer(records, {place: end})
        await until(lambda: sink.whole)
        assert await store.read("videos", "u2") == a_list("u2", 11)
        assert await store.positions([place]) == [end]

        await redis.flushdb()  # as a Redis that came back without its data
        sink.assign([0])
        await until(lambda: sink.whole)
        assert await store.read("videos", "u1") == a_list("u1", 10)
        assert await store.positions([place]) == [end]

    run(redis_url, fresh_topics, body)


def test_a_position_from_another_life_of_the_topic_starts_over(fresh_topics: str, redis_url: str) -> None:
    end = produce(fresh_topics, [("u1", 10)])

    async def body(sink: RedisSink, redis: Redis, store: LatestStore) -> None:
        place = (VIDEO_RECOMMENDATIONS, 0)
        await store.reset_position(*place, 1_000_000)
        sink.assign([0])
        await until(lambda: sink.whole)
        assert await store.read("videos", "u1") == a_list("u1", 10)
        assert await store.positions([place]) == [end]

    run(redis_url, fresh_topics, body)


def test_an_older_list_never_replaces_a_newer_one(fresh_topics: str, redis_url: str) -> None:
    produce(fresh_topics, [("u1", 20), ("u1", 10)])  # a zombie's late write

    async def body(sink: RedisSink, redis: Redis, store: LatestStore) -> None:
        await store.write([("videos", "u1", a_list("u1", 30), 30, 35, "m1")])
        sink.assign([0])
        await until(lambda: sink.whole)
        assert await store.read("videos", "u1") == a_list("u1", 30)
        assert await redis.ttl(list_key("videos", "u1")) > 0
        assert TOPIC_OF["videos"] == VIDEO_RECOMMENDATIONS

    run(redis_url, fresh_topics, body)
