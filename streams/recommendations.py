"""The records that the worker writes: recommended videos per user, and recommended comments under one video.

One record replaces the one before it: the newest record of a user (and kind) is all that a reader needs.
`encode_videos` and `encode_comments` are for the worker, which writes about a hundred items per record; `decode` is for
readers.
Unknown fields are ignored, so fields may be added; a change that a reader must know about raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from model_runtime.items import Item as Item
from streams import topics

SCHEMA_VERSION = 1

#: What is recommended. Names the Redis keys (`streams.latest`) and the arguments of the readers.
Kind = Literal["videos", "comments"]
TOPIC_OF: dict[Kind, str] = {
    "videos": topics.VIDEO_RECOMMENDATIONS,
    "comments": topics.COMMENT_RECOMMENDATIONS,
}
KIND_OF: dict[str, Kind] = {topic: kind for kind, topic in TOPIC_OF.items()}


class Trigger(Struct, frozen=True, gc=False):
    """The newest event, by event time, that the list covers: where it was read, and when it happened."""

    topic: str
    partition: int
    offset: int
    event_id: str
    ts_ms: int


class VideoRecommendations(Struct, frozen=True):
    """A value of the topic `video-recommendations` (key user_id): the videos to show next, best first.

    `source` says what made the list: `model`, or `live` (live signals alone) when a user has no history yet;
    `model_version` is the one bundle that made all of it.
    """

    schema_version: int
    user_id: str
    model_version: str
    generated_ms: int
    source: str
    trigger: Trigger
    items: tuple[Item, ...]


class CommentRecommendations(Struct, frozen=True):
    """A value of the topic `comment-recommendations` (key user_id): the comments to show under `video_id`, best first.

    The video is the one that the user was on at the trigger.
    """

    schema_version: int
    user_id: str
    video_id: str
    model_version: str
    generated_ms: int
    source: str
    trigger: Trigger
    items: tuple[Item, ...]


Recommendations = VideoRecommendations | CommentRecommendations


class RecommendationError(ValueError):
    """A record that is no recommendation, or has a schema version that this release can't read."""


class _Version(Struct):
    schema_version: Any = None


_ENCODE = msgspec.json.Encoder().encode
_DECODERS: dict[Kind, msgspec.json.Decoder[Any]] = {
    "videos": msgspec.json.Decoder(VideoRecommendations),
    "comments": msgspec.json.Decoder(CommentRecommendations),
}
_VERSION = msgspec.json.Decoder(_Version)


def encode_videos(
    user_id: str,
    model_version: str,
    generated_ms: int,
    source: str,
    trigger: Trigger,
    items: bytes,
) -> bytes:
    """The JSON of a list of videos. `items`: its items, best first (`model_runtime.items.encode_items`)."""
    written: Any = Raw(items)
    return _ENCODE(VideoRecommendations(SCHEMA_VERSION, user_id, model_version, generated_ms, source, trigger, written))


def encode_comments(
    user_id: str,
    video_id: str,
    model_version: str,
    generated_ms: int,
    source: str,
    trigger: Trigger,
    items: bytes,
) -> bytes:
    """As `encode_videos`, for the comments under `video_id`."""
    written: Any = Raw(items)
    return _ENCODE(
        CommentRecommendations(SCHEMA_VERSION, user_id, video_id, model_version, generated_ms, source, trigger, written)
    )


def encode(record: Recommendations) -> bytes:
    """The JSON of a record, UTF-8."""
    return _ENCODE(record)


def decode(kind: Kind, value: bytes) -> Recommendations:
    """The record of a value of the topic `TOPIC_OF[kind]`.

    Raises:
        RecommendationError: another schema version, or not a recommendation of this kind; the message says what.
    """
    try:
        record: Recommendations = _DECODERS[kind].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse_version(_version_of(value))
        raise RecommendationError(f"not a recommendation of {kind}: {error}") from None
    _refuse_version(record.schema_version)
    return record


def _version_of(value: bytes) -> Any:
    try:
        return _VERSION.decode(value).schema_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refuse_version(version: Any) -> None:
    if version is not None and version != SCHEMA_VERSION:
        raise RecommendationError(
            f"the recommendation has schema version {version}; this release reads {SCHEMA_VERSION}: upgrade the reader"
        )
