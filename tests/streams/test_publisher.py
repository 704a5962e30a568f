"""The client for event producers, against a real broker."""

import inspect
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.topic_reader import read_topic

from infra.local.stack import LocalStack
from infra.topic_admin import create_topics
from streams import events, publisher, topics
from streams.publisher import Comment, CommentInteraction, EventError, Publisher, PublishError, Video, VideoView

NOW_MS = time.time_ns() // 1_000_000


@pytest.fixture
def run_id() -> str:
    """The broker is shared by all tests: each has ids of its own."""
    return uuid.uuid4().hex


def view(run_id: str, number: int = 0, **fields: Any) -> VideoView:
    return VideoView(f"{run_id}-e{number}", f"{run_id}-u{number % 40}", "v1", NOW_MS + number, 5_000, **fields)


def records_of(kafka: str, topic: str, run_id: str) -> list[Any]:
    return [record for record in read_topic(kafka, topic) if (record.key() or b"").decode().startswith(run_id)]


def test_the_surface_is_small_and_documented() -> None:
    assert sorted(publisher.__all__) == [
        "Comment",
        "CommentInteraction",
        "EventError",
        "Failure",
        "PublishError",
        "Publisher",
        "Video",
        "VideoView",
    ]
    public = {name: member for name, member in vars(Publisher).items() if not name.startswith("_")}
    assert sorted(public) == ["close", "flush", "publish", "remove_comment", "remove_video"]
    assert all(inspect.getdoc(member) for member in [publisher, Publisher, PublishError, *public.values()])
    assert list(inspect.signature(Publisher.publish).parameters) == ["self", "event", "topic"]


@pytest.mark.integration
def test_events_arrive_in_order_on_their_users_partition(kafka: str, run_id: str) -> None:
    with Publisher(kafka) as client:
        for number in range(400):
            client.publish(view(run_id, number))
    records = records_of(kafka, topics.VIDEO_VIEWS, run_id)
    assert len(records) == 400
    by_user: dict[bytes, list[int]] = {}
    for record in records:
        event = events.decode(topics.VIDEO_VIEWS, record.key(), record.value(), now_ms=NOW_MS)
        assert isinstance(event, VideoView)
        assert record.partition() == topics.partition_of(record.key(), topics.DEFAULT_PARTITIONS)
        assert record.headers() is None
        by_user.setdefault(record.key(), []).append(event.ts_ms)
    assert len(by_user) == 40
    assert all(times == sorted(times) for times in by_user.values())


@pytest.mark.integration
def test_every_kind_of_record_and_its_removal(kafka: str, run_id: str) -> None:
    with Publisher(kafka) as client:
        client.publish(CommentInteraction(f"{run_id}-e", f"{run_id}-u", "v", "c", NOW_MS, "like"))
        client.publish(Video(f"{run_id}-v", "Ein Käse"))
        client.publish({"comment_id": f"{run_id}-c", "video_id": "v", "text": "?", "lang": "de"}, topic="comments")
        client.publish(b'{"comment_id":"%s-d","video_id":"v","text":"!"}' % run_id.encode(), topic="comments")
        client.publish(Comment(f"{run_id}-e", "v", "gone"))
        client.remove_video(f"{run_id}-v")
        client.remove_comment(f"{run_id}-e")
    videos = [(record.key().decode(), record.value()) for record in records_of(kafka, topics.VIDEOS, run_id)]
    assert videos == [(f"{run_id}-v", events.encode(Video(f"{run_id}-v", "Ein Käse"))), (f"{run_id}-v", None)]
    comments = {record.key().decode(): record.value() for record in records_of(kafka, topics.COMMENTS, run_id)}
    assert comments[f"{run_id}-e"] is None
    assert json.loads(comments[f"{run_id}-c"])["lang"] == "de"  # fields that we do not know are passed on
    assert comments[f"{run_id}-d"].startswith(b"{")
    assert len(records_of(kafka, topics.COMMENT_INTERACTIONS, run_id)) == 1


@pytest.mark.integration
def test_cloud_event_headers_where_a_source_is_named(kafka: str, run_id: str) -> None:
    with Publisher(kafka, source="/apps/android") as client:
        client.publish(VideoView(f"{run_id}-e", f"{run_id}-u", "v", 1_700_000_000_042, 5))
    (record,) = records_of(kafka, topics.VIDEO_VIEWS, run_id)
    assert dict(record.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": f"{run_id}-e".encode(),
        "ce_type": b"lsvcr.video-views",
        "ce_source": b"/apps/android",
        "ce_time": b"2023-11-14T22:13:20.042Z",
    }


@pytest.mark.integration
def test_a_bad_event_is_refused_where_it_is_made_and_sends_nothing(kafka: str, run_id: str) -> None:
    late = time.time_ns() // 1_000_000 + 3 * 24 * 3600 * 1000
    with Publisher(kafka) as client:
        for event, topic, field in (
            (VideoView(f"{run_id}-e", f"{run_id}-u", "v", NOW_MS, -5), None, "watch_ms"),
            (VideoView(f"{run_id}-e", f"{run_id}-u", "v", late, 5), None, "ts_ms"),
            ({"video_id": f"{run_id}-v"}, "videos", "title"),
            ({"video_id": f"{run_id}-v", "title": {1, 2}}, "videos", "title"),
            ({"video_id": f"{run_id}-v", "title": "\ud800"}, "videos", None),
            ({"video_id": f"{run_id}-v", "title": object()}, "videos", None),
            (b"{", "comments", None),
            ({}, "no-such-topic", None),
        ):
            with pytest.raises(EventError) as caught:
                client.publish(event, topic=topic)  # type: ignore[arg-type]
            assert caught.value.field == field
        with pytest.raises(EventError, match="1 to 128 characters"):
            client.remove_video("")
        with pytest.raises(TypeError, match="topic= is needed for a dict"):
            client.publish({})
    assert records_of(kafka, topics.VIDEO_VIEWS, run_id) == []
    assert records_of(kafka, topics.VIDEOS, run_id) == []


@pytest.mark.integration
def test_leaving_the_block_by_an_error_still_delivers(kafka: str, run_id: str) -> None:
    def fails() -> None:
        with Publisher(kafka) as client:
            client.publish(view(run_id))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert len(records_of(kafka, topics.VIDEO_VIEWS, run_id)) == 1


@pytest.mark.integration
def test_a_closed_publisher_says_so(kafka: str, run_id: str) -> None:
    client = Publisher(kafka)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.publish(view(run_id))


def test_a_broker_that_is_not_there_is_named() -> None:
    with pytest.raises(PublishError, match=r"no Kafka broker answers at localhost:1: is it running"):
        Publisher("localhost:1", connect_timeout_s=0.2)


@pytest.mark.integration
def test_a_missing_topic_is_named_with_the_remedy(tmp_path: Path, run_id: str) -> None:
    with LocalStack(tmp_path, topics=False) as stack, Publisher(stack.bootstrap_servers) as client:
        with pytest.raises(
            PublishError, match=r"topic comments does not exist on .*: create it with `lsvcr topics create`"
        ):
            client.remove_comment("c1")
        create_topics(stack.bootstrap_servers, topics.DEFAULT_PARTITIONS)
        client.remove_comment(f"{run_id}-c")
        client.flush()
        assert len(records_of(stack.bootstrap_servers, topics.COMMENTS, run_id)) == 1
