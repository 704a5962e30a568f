"""A user's state as the record in the table and on its changelog: `encode(state)`, `decode(record)`.

One msgpack array. Times are differences (5 bytes where events are less than 49 days apart), digests packed columns;
the video of a comment is an index into the video history where it is there too.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import accumulate
from operator import sub
from typing import Annotated, Any

import msgspec

from streams.history import Newest, Recent, UserState, Window
from streams.topics import EVENT_TOPICS

FORMAT_VERSION = 1

_Index = Annotated[int, msgspec.Meta(ge=0)]
# fmt: off
_Fields = tuple[
    int,  # format version
    int, int, list[int], bytes, list[str],  # video: low_ms, low_digest, differences of times, digests, videos
    int, int, list[int], bytes, list[_Index | str], list[str],  # comment: the same, then comments
    bytes, bytes, bytes, bytes,  # seen: seconds, videos; hated: seconds, videos
    tuple[int, int, _Index, int, int, str, str] | None,  # newest
]
# fmt: on

_pack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_unpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder(_Fields).decode


class StateFormatError(ValueError):
    """A stored state that this version can't read."""


def encode(state: UserState) -> bytes:
    """The compact binary record of a state."""
    video, comment, newest = state.video, state.comment, state.newest
    place = {name: i for i, name in enumerate(video.videos)}
    return _pack(
        (
            FORMAT_VERSION,
            *_window_columns(video),
            video.videos,
            *_window_columns(comment),
            [place.get(name, name) for name in comment.videos],
            comment.comments,
            state.seen.seconds.tobytes(),
            state.seen.videos.tobytes(),
            state.hated.seconds.tobytes(),
            state.hated.videos.tobytes(),
            None
            if newest is None
            else (
                newest.ts_ms,
                newest.digest,
                EVENT_TOPICS.index(newest.topic),
                newest.partition,
                newest.offset,
                newest.event_id,
                newest.video_id,
            ),
        )
    )


def decode(record: bytes) -> UserState:
    """The state of a record.

    Raises:
        StateFormatError: another format version, or bytes that are no state at all.
    """
    try:
        return _state(_unpack(record))
    except (msgspec.DecodeError, ValueError, OverflowError, IndexError, RecursionError) as error:
        version = _version_of(record)
        if version not in (None, FORMAT_VERSION):
            message = f"user state has format {version}; this version reads {FORMAT_VERSION}"
        else:
            message = f"not a user state ({len(record)} bytes): {error}"
        raise StateFormatError(message) from None


def _state(fields: Any) -> UserState:
    (version, v_low, v_lowd, v_times, v_digests, v_videos, c_low, c_lowd, c_times, c_digests, c_videos, c_comments) = (
        fields[:12]
    )
    seen_s, seen_v, hated_s, hated_v, newest = fields[12:]
    video = Window(array("q", accumulate(v_times)), _from(v_digests, "Q"), v_videos, [], v_low, v_lowd)
    on = [v_videos[name] if type(name) is int else name for name in c_videos]
    comment = Window(array("q", accumulate(c_times)), _from(c_digests, "Q"), on, c_comments, c_low, c_lowd)
    seen = Recent(_from(seen_s, "I"), _from(seen_v, "I"))
    hated = Recent(_from(hated_s, "I"), _from(hated_v, "I"))
    if not (
        version == FORMAT_VERSION
        and len(video.times) == len(video.digests) == len(video.videos)
        and len(comment.times) == len(comment.digests) == len(comment.videos) == len(comment.comments)
        and len(seen.seconds) == len(seen.videos)
        and len(hated.seconds) == len(hated.videos)
    ):
        raise ValueError("its columns do not match")
    return UserState(
        video,
        comment,
        seen,
        hated,
        None if newest is None else Newest(newest[0], newest[1], EVENT_TOPICS[newest[2]], *newest[3:]),
    )


def _version_of(record: bytes) -> int | None:
    try:
        fields = msgspec.msgpack.decode(record)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return fields[0] if isinstance(fields, list) and fields and type(fields[0]) is int else None


def _window_columns(window: Window) -> tuple[int, int, list[int], bytes]:
    times = window.times
    deltas = [times[0], *map(sub, times[1:], times)] if times else []
    return window.low_ms, window.low_digest, deltas, window.digests.tobytes()


def _from(column: bytes, code: str) -> array[int]:
    values = array(code)
    values.frombytes(column)
    return values
