"""The events on the wire: typed, validated, decoded by msgspec.

`decode(topic, key, value, now_ms=...)` returns a typed event or raises `EventError`, whose `code` is for machines,
and whose text tells a person which field is wrong and why. Unknown fields are ignored so that producers may add some.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from streams import topics

MAX_VALUE_BYTES = 64 * 1024
MAX_AHEAD_MS = 24 * 3600 * 1000

Id = Annotated[str, Meta(min_length=1, max_length=128)]
#: Unix time in milliseconds; the bound is the year 9999.
Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
#: A length of time in milliseconds, at most 30 days.
Span = Annotated[int, Meta(ge=0, le=30 * 24 * 3600 * 1000)]

VideoAction = Literal["like", "follow", "forward", "collect", "comment", "hate"]
CommentAction = Literal["view", "expand", "like", "reply", "write"]


class VideoView(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user watched a video (topic `video-views`). `watch_ms` is the time watched, not the position."""

    event_id: Id
    user_id: Id
    video_id: Id
    ts_ms: Millis
    watch_ms: Span
    duration_ms: Span | None = None
    actions: tuple[VideoAction, ...] | None = None


class CommentInteraction(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user did something with a comment under a video (topic `comment-interactions`)."""

    event_id: Id
    user_id: Id
    video_id: Id
    comment_id: Id
    ts_ms: Millis
    action: CommentAction
    dwell_ms: Span | None = None


class Video(Struct, frozen=True, gc=False, omit_defaults=True):
    """An entry of the video catalog (topic `videos`). A null value on the topic removes the video."""

    video_id: Id
    title: str
    tags: tuple[str, ...] | None = None
    author_id: Id | None = None
    duration_ms: Span | None = None
    created_ms: Millis | None = None

    @property
    def text(self) -> str:
        """What stands for the video where texts are compared: its title, then its tags."""
        return " ".join((self.title, *(self.tags or ()))).strip()


class Comment(Struct, frozen=True, gc=False, omit_defaults=True):
    """An entry of the comment catalog (topic `comments`). A null value on the topic removes the comment."""

    comment_id: Id
    video_id: Id
    text: str
    user_id: Id | None = None
    like_count: Annotated[int, Meta(ge=0)] | None = None
    created_ms: Millis | None = None


Event = VideoView | CommentInteraction
Record = VideoView | CommentInteraction | Video | Comment

TYPES: dict[str, type[Record]] = {
    topics.VIDEO_VIEWS: VideoView,
    topics.COMMENT_INTERACTIONS: CommentInteraction,
    topics.VIDEOS: Video,
    topics.COMMENTS: Comment,
}
#: the field of each type that is the record's key on its topic
KEY_FIELDS: dict[str, str] = {
    topics.VIDEO_VIEWS: "user_id",
    topics.COMMENT_INTERACTIONS: "user_id",
    topics.VIDEOS: "video_id",
    topics.COMMENTS: "comment_id",
}

_DECODERS = {topic: msgspec.json.Decoder(type_) for topic, type_ in TYPES.items()}
_ENCODER = msgspec.json.Encoder()


class EventError(ValueError):
    """A record that can't be accepted. `code` is one of a fixed set (below), `field` the field at fault or None.

    Codes: `unknown-topic`, `empty`, `too-large`, `not-json`, `not-object`, `missing-field`, `invalid-field`,
    `future-time`, `missing-key`, `wrong-key`.
    """

    def __init__(self, code: str, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.field = field


def decode(topic: str, key: bytes | None, value: bytes | None, *, now_ms: int) -> Record:
    """Decode and check one record of an event or catalog topic.

    Raises:
        EventError: the record breaks the contract; the message says which field and why.
    """
    event = decode_value(topic, value, now_ms=now_ms)
    field = KEY_FIELDS[topic]
    if key is None:
        raise EventError("missing-key", f"the record has no key; its key must be its {field}", field)
    expected: str = getattr(event, field)
    if key != expected.encode():
        shown = key[:64].decode("utf-8", "backslashreplace")
        raise EventError("wrong-key", f"the record's key is {shown!r} but its {field} is {expected[:64]!r}", field)
    return event


def decode_value(topic: str, value: bytes | None, *, now_ms: int) -> Record:
    """As `decode`, for a value whose key is not known (a line of a file)."""
    decoder = _DECODERS.get(topic)
    if decoder is None:
        raise EventError("unknown-topic", f"no event type belongs to topic {topic!r}; known: {', '.join(TYPES)}")
    if not value:
        raise EventError("empty", "the value is empty; a JSON object was expected")
    if len(value) > MAX_VALUE_BYTES:
        raise EventError("too-large", f"the value has {len(value)} bytes; at most {MAX_VALUE_BYTES} are accepted")
    try:
        event: Record = decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(error) from None
    ts_ms = getattr(event, "ts_ms", None)
    if ts_ms is not None and ts_ms > now_ms + MAX_AHEAD_MS:
        ahead_h = (ts_ms - now_ms) / 3_600_000
        raise EventError(
            "future-time", f"ts_ms {ts_ms} is {ahead_h:,.0f} h ahead; at most 24 h are accepted (is it in ms?)", "ts_ms"
        )
    return event


def encode(event: Record) -> bytes:
    """The JSON of an event, UTF-8, fields at their defaults left out."""
    return _ENCODER.encode(event)


def key_of(topic: str, event: Record) -> str:
    """The record key that `event` must have on `topic`."""
    key: str = getattr(event, KEY_FIELDS[topic])
    return key


_MISSING = re.compile(r"^Object missing required field `(\w+)`")
_SHOWN = 240
_AT = re.compile(r"^(?P<why>.*) - at `\$\.?(?P<path>[^`]*)`$")


def _explain(error: Exception) -> EventError:
    """Turn a decoder's message into one that names the field first."""
    text = str(error)
    if len(text) > _SHOWN:  # a decoder's message quotes what was found, which may be 64 KiB long
        text = f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
    if not isinstance(error, msgspec.ValidationError):
        return EventError("not-json", f"the value is not JSON in UTF-8: {text}")
    if missing := _MISSING.match(text):
        return EventError("missing-field", f"{missing[1]}: required field is missing", missing[1])
    if at := _AT.match(text):
        field = re.split(r"[.\[]", at["path"], maxsplit=1)[0]
        return EventError("invalid-field", f"{at['path']}: {at['why'].replace('`', '')}", field)
    return EventError("not-object", f"the value is JSON but not an object: {text.replace('`', '')}")
