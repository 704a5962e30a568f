"""`lsvcr feed`, as a person or a script calls it."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner
from redis.asyncio import Redis

from infra.cli import main
from model_runtime.items import encode_items
from model_runtime.live_ranker import Part
from streams import recommendations, topics
from streams.latest import LatestStore
from streams.publisher import Comment, Publisher, Video
from streams.recommendations import Trigger

pytestmark = pytest.mark.integration

TRIGGER = Trigger("video-views", 0, 7, "e1", 1_700_000_000_000)


def invoke(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main, ["feed", *arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def user(kafka: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user with a list of each kind, in Redis and in Kafka; the ids of the items end in the user's."""
    monkeypatch.setenv("LSVCR_BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("LSVCR_REDIS_URL", redis_url)
    user = uuid.uuid4().hex[:8]
    videos = recommendations.encode_videos(
        user, "m1", 2, "model", TRIGGER, encode_items([f"v1{user}", f"v2{user}"], [2.0, 1.0])
    )
    comments = recommendations.encode_comments(
        user, "[v9]", "m1", 2, "model", TRIGGER, encode_items([f"c1{user}"], [2.0])
    )

    async def fill() -> None:
        async with Redis.from_url(redis_url) as redis:
            await LatestStore(redis).write(
                [("videos", user, videos, 1, 2, "m1"), ("comments", user, comments, 1, 2, "m1")]
            )
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            await producer.send_and_wait(topics.VIDEO_RECOMMENDATIONS, videos, user.encode())
            await producer.send_and_wait(topics.COMMENT_RECOMMENDATIONS, comments, user.encode())

    asyncio.run(fill())
    return user


def test_videos_with_their_titles(user: str, kafka: str) -> None:
    with Publisher(kafka) as publisher:
        publisher.publish(Video(f"v1{user}", "Old"))
        publisher.publish(Video(f"v1{user}", "[b]Cats[/b]"))
    table = invoke("videos", user, "--titles", "--top", "1").stdout
    assert "[b]Cats[/b]" in table
    assert f"v2{user}" not in table
    assert "1 of 2, by model m1 (model)" in table
    record = json.loads(invoke("videos", user, "--titles", "--json").stdout)
    assert [item.get("title") for item in record["items"]] == ["[b]Cats[/b]", None]
    assert record["user_id"] == user


def test_an_explained_list_shows_the_parts_of_its_scores(user: str, redis_url: str) -> None:
    part = Part(1.25, 0.75, ("trending", "newest"))
    explained = recommendations.encode_videos(
        user, "m2", 3, "model", TRIGGER, encode_items(["v1", "v2"], [2.0, 2.0], [part, part])
    )

    async def fill() -> None:
        async with Redis.from_url(redis_url) as redis:
            await LatestStore(redis).write([("videos", user, explained, 2, 3, "m2")])

    asyncio.run(fill())
    table = invoke("videos", user).stdout
    for shown in ("1.2500", "+0.7500", "trending, newest"):
        assert table.count(shown) == 2


def test_comments_under_a_video(user: str, kafka: str) -> None:
    with Publisher(kafka) as publisher:
        publisher.publish(Comment(f"c1{user}", "[v9]", "so true"))
    table = invoke("comments", user, "[v9]", "--titles").stdout
    assert "comments under [v9]" in table
    assert "so true" in table
    assert "are those of video [v9]" in invoke("comments", user, "v8", code=1).output


def test_nothing_for_a_user(user: str) -> None:
    assert "no videos are recommended to user nobody" in invoke("videos", "nobody", code=1).output
    assert "no comments are recommended to user nobody" in invoke("comments", "nobody", "v", code=1).output


def test_tail(user: str) -> None:
    arguments = ["tail", "--user", user, "--from-beginning", "--limit", "2"]
    records = [json.loads(line) for line in invoke(*arguments, "--json").stdout.splitlines()]
    assert sorted(record.get("video_id", "") for record in records) == ["", "[v9]"]
    one = ["tail", "--user", user, "--from-beginning", "--limit", "1", "--topic", "video-recommendations"]
    assert f"{user}  videos: v1{user} v2{user}  [m1]" in invoke(*one).stdout


def test_servers_that_are_not_there(user: str) -> None:
    assert (
        "Redis does not answer at localhost:1"
        in invoke("videos", user, "--redis-url", "redis://localhost:1", code=1).output
    )
    assert "no Kafka broker answers" in invoke("tail", "--bootstrap-servers", "localhost:1", code=1).output
    assert "Redis URL must specify" in invoke("videos", user, "--redis-url", "somewhere", code=2).output
