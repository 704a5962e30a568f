"""The records that the worker writes: recommended videos per user, and recommended comments under one video.

One record replaces the one before it: the newest record of a user (and kind) is all that a reader needs.
`encode_videos` and `encode_comments` are for the worker, which writes about a hundred items per record; `decode` is for
readers.
Unknown fields are ignored, so fields may be added; a change that a reader must know about raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from streams import topics

if TYPE_CHECKING:
    from model_runtime.live_ranker import Part  # readers of lists need no numpy

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


class Item(Struct, frozen=True, gc=False, omit_defaults=True):
    """One recommended video or comment. Scores order the items of one list; they do not compare across lists.

    A worker that explains (`lsvcr worker --explain`) adds what the score is the sum of: `sr`, the sequential
    recommender's part, and `live`, what live signals added; for videos also `sources`, which of `nearest` (by `sr`),
    `trending`, `newest` and `related` (to what the user watched last) named the video.
    """

    id: str
    score: float
    sr: float | None = None
    live: float | None = None
    sources: tuple[str, ...] | None = None


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
    ids: Sequence[str],
    scores: Sequence[float],
    parts: Sequence[Part] | None = None,
) -> bytes:
    """The JSON of a list of videos from parallel lists, best first; with `parts`, explained.

    Raises:
        ValueError: `ids` and `scores` differ in length, or a score is not finite (JSON has no NaN).
    """
    items = _items(ids, scores, parts)
    return _ENCODE(VideoRecommendations(SCHEMA_VERSION, user_id, model_version, generated_ms, source, trigger, items))


def encode_comments(
    user_id: str,
    video_id: str,
    model_version: str,
    generated_ms: int,
    source: str,
    trigger: Trigger,
    ids: Sequence[str],
    scores: Sequence[float],
    parts: Sequence[Part] | None = None,
) -> bytes:
    """As `encode_videos`, for the comments under `video_id`."""
    items = _items(ids, scores, parts)
    return _ENCODE(
        CommentRecommendations(SCHEMA_VERSION, user_id, video_id, model_version, generated_ms, source, trigger, items)
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


def _items(ids: Sequence[str], scores: Sequence[float], parts: Sequence[Part] | None) -> tuple[Item, ...]:
    # A struct per item: measured 1.5 times faster than dicts and 3 times faster than joining formatted strings.
    if len(ids) != len(scores):
        raise ValueError(f"{len(ids)} ids but {len(scores)} scores")
    if not isfinite(sum(scores)):
        raise ValueError("a score is not finite")
    if parts is None:
        return tuple(map(Item, ids, scores))
    return tuple(
        Item(id_, score, part.sr, part.live, part.sources or None)
        for id_, score, part in zip(ids, scores, parts, strict=True)
    )


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
