"""The client for feed services, against a real Redis and a real broker."""

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from model_runtime.items import encode_items
from streams import feed, recommendations, topics
from streams.feed import FeedClient, FeedError, Recommendations, Trigger
from streams.latest import LatestStore

T = TypeVar("T")
TRIGGER = Trigger("video-views", 0, 7, "e1", 1_700_000_000_000)


@pytest.fixture
def user() -> str:
    """The servers are shared by all tests: each has users of its own."""
    return f"feed-{uuid.uuid4()}"


def videos(user: str, *ids: str) -> bytes:
    scores = [1.0 - rank for rank in range(len(ids))]
    return recommendations.encode_videos(user, "m1", 1_700_000_000_001, "model", TRIGGER, encode_items(ids, scores))


def comments(user: str, video: str, *ids: str) -> bytes:
    scores = [1.0 - rank for rank in range(len(ids))]
    return recommendations.encode_comments(
        user, video, "m1", 1_700_000_000_001, "model", TRIGGER, encode_items(ids, scores)
    )


def run(redis_url: str, kafka: str, body: Callable[[FeedClient], Awaitable[T]]) -> T:
    async def session() -> T:
        async with FeedClient(redis_url, kafka) as client:
            return await asyncio.wait_for(body(client), 60)

    return asyncio.run(session())


async def store(redis_url: str, kind: recommendations.Kind, user: str, value: bytes) -> None:
    async with Redis.from_url(redis_url) as redis:
        await LatestStore(redis).write([(kind, user, value, 1, 1, "m1")])


async def produce(kafka: str, *records: tuple[str, str, bytes | None]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for topic, user, value in records:
            await producer.send_and_wait(topic, value, user.encode())


async def take(
    client: FeedClient, count: int, *names: str, user_id: str | None = None, prefix: str = ""
) -> list[Recommendations]:
    found: list[Recommendations] = []
    async with aclosing(client.stream(*names, user_id=user_id, from_beginning=True)) as stream:
        async for record in stream:
            if record.user_id.startswith(prefix):
                found.append(record)
            if len(found) == count:
                return found
    raise AssertionError("a stream has no end")


def test_the_surface_is_small_and_documented() -> None:
    assert sorted(feed.__all__) == [
        "CommentRecommendations",
        "FeedClient",
        "FeedError",
        "Item",
        "RecommendationError",
        "Recommendations",
        "Trigger",
        "VideoRecommendations",
    ]
    public = {name: member for name, member in vars(FeedClient).items() if not name.startswith("_")}
    assert sorted(public) == ["close", "latest_comments", "latest_videos", "stream"]
    assert all(inspect.getdoc(member) for member in [feed, FeedClient, FeedError, *public.values()])


@pytest.mark.integration
def test_the_latest_lists_of_a_user(redis_url: str, kafka: str, user: str) -> None:
    async def body(client: FeedClient) -> None:
        assert await client.latest_videos(user) is None
        assert await client.latest_comments(user) is None
        await store(redis_url, "videos", user, videos(user, "v2", "v1"))
        await store(redis_url, "comments", user, comments(user, "v9", "c1"))
        shown = await client.latest_videos(user)
        assert shown is not None
        assert [(item.id, item.score) for item in shown.items] == [("v2", 1.0), ("v1", 0.0)]
        assert (shown.user_id, shown.model_version, shown.trigger) == (user, "m1", TRIGGER)
        under = await client.latest_comments(user, "v9")
        assert under is not None
        assert (under.video_id, [item.id for item in under.items]) == ("v9", ["c1"])
        assert await client.latest_comments(user) == under
        assert await client.latest_comments(user, "v8") is None

    run(redis_url, kafka, body)


@pytest.mark.integration
def test_a_list_of_a_later_release_says_so(redis_url: str, kafka: str, user: str) -> None:
    async def body(client: FeedClient) -> None:
        await store(redis_url, "videos", user, b'{"schema_version":2}')
        with pytest.raises(feed.RecommendationError, match="upgrade the reader"):
            await client.latest_videos(user)

    run(redis_url, kafka, body)


@pytest.mark.integration
def test_a_stream_brings_both_topics_of_all_users_in_order(redis_url: str, kafka: str, user: str) -> None:
    async def body(client: FeedClient) -> None:
        await produce(
            kafka,
            *((topics.VIDEO_RECOMMENDATIONS, f"{user}-{n % 5}", videos(f"{user}-{n % 5}", f"v{n}")) for n in range(20)),
            *(
                (topics.COMMENT_RECOMMENDATIONS, f"{user}-{n % 5}", comments(f"{user}-{n % 5}", "v", f"c{n}"))
                for n in range(20)
            ),
        )
        found = await take(client, 40, prefix=user)
        for kind, letter in ((feed.VideoRecommendations, "v"), (feed.CommentRecommendations, "c")):
            for number in range(5):
                ids = [r.items[0].id for r in found if isinstance(r, kind) and r.user_id == f"{user}-{number}"]
                assert ids == [f"{letter}{n}" for n in range(number, 20, 5)]

    run(redis_url, kafka, body)


@pytest.mark.integration
def test_a_stream_of_one_user_and_topic_leaves_out_what_can_not_be_read(redis_url: str, kafka: str, user: str) -> None:
    async def body(client: FeedClient) -> None:
        await produce(
            kafka,
            (topics.COMMENT_RECOMMENDATIONS, user, comments(user, "v", "c1")),
            (topics.VIDEO_RECOMMENDATIONS, user, videos(user, "v1")),
            (topics.VIDEO_RECOMMENDATIONS, f"{user}-other", videos(f"{user}-other", "v2")),
            (topics.VIDEO_RECOMMENDATIONS, user, b'{"schema_version":2}'),
            (topics.VIDEO_RECOMMENDATIONS, user, None),
            (topics.VIDEO_RECOMMENDATIONS, user, videos(user, "v3")),
        )
        found = await take(client, 2, topics.VIDEO_RECOMMENDATIONS, user_id=user)
        assert [record.items[0].id for record in found] == ["v1", "v3"]
        assert all(isinstance(record, feed.VideoRecommendations) for record in found)

    run(redis_url, kafka, body)


@pytest.mark.integration
def test_a_stream_from_now_on_leaves_out_what_was_there(redis_url: str, kafka: str, user: str) -> None:
    async def body(client: FeedClient) -> None:
        await produce(kafka, (topics.VIDEO_RECOMMENDATIONS, user, videos(user, "before")))
        async with aclosing(client.stream(user_id=user)) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            number = 0
            while not waiting.done():  # when the stream has started can't be seen from outside
                await produce(kafka, (topics.VIDEO_RECOMMENDATIONS, user, videos(user, f"after{number}")))
                number += 1
            assert (await waiting).items[0].id.startswith("after")

    run(redis_url, kafka, body)


def test_servers_that_are_not_there_are_named_without_the_password() -> None:
    async def body(client: FeedClient) -> None:
        with pytest.raises(FeedError, match="Redis does not answer at localhost:1:") as caught:
            await client.latest_videos("u1")
        assert "secret" not in str(caught.value)
        with pytest.raises(FeedError, match="no Kafka broker answers at localhost:1"):
            await anext(client.stream())
        with pytest.raises(ValueError, match="videos is no topic of recommendations"):
            await anext(client.stream("videos"))

    run("redis://:secret@localhost:1/0", "localhost:1", body)
