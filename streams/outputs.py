"""From a state to the scorer's request, and from a ranking to the records that are published."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache

from model_runtime.scorer import Rendered, Request
from streams import recommendations
from streams.history import Newest, UserState
from streams.recommendations import Kind
from streams.topics import Headers

_VERSION, _SOURCE = ("ce_specversion", b"1.0"), ("ce_source", b"lsvcr/worker")


def request_of(state: UserState, user_id: str | None = None) -> Request:
    """The scorer's view of a user's state; with the id, what was computed of the user is kept."""
    return Request(
        videos=state.video.videos,
        comment_videos=state.comment.videos,
        comment_ids=state.comment.comments,
        current_video=None if state.newest is None else state.newest.video_id,
        barred=state.seen.videos + state.hated.videos,
        user_id=user_id,
    )


def lists_of(
    user_id: str, newest: Newest, lists: Rendered, version: str, generated_ms: int
) -> Iterator[tuple[Kind, bytes]]:
    """The records of both recommendation topics, by kind."""
    trigger = recommendations.Trigger(newest.topic, newest.partition, newest.offset, newest.event_id, newest.ts_ms)
    made = version, generated_ms
    yield "videos", recommendations.encode_videos(user_id, *made, lists.video_source, trigger, lists.videos)
    yield (
        "comments",
        recommendations.encode_comments(user_id, newest.video_id, *made, lists.comment_source, trigger, lists.comments),
    )


def cloud_event(newest: Newest, topic: str, generated_ms: int) -> Headers:
    """CloudEvents attributes (Kafka binary mode) of an output."""
    of_type, at = _shared(topic, generated_ms)
    return [_VERSION, ("ce_id", f"{newest.event_id}/{topic}/{generated_ms}".encode()), of_type, _SOURCE, at]


@lru_cache(maxsize=8)
def _shared(topic: str, ms: int) -> Headers:
    """Kept, because all records of a batch have one time."""
    seconds, millis = divmod(ms, 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return [("ce_type", b"lsvcr." + topic.encode()), ("ce_time", f"{stamp}.{millis:03d}Z".encode())]
