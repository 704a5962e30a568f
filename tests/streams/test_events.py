"""The contract of the events on the wire: what is accepted, and how what is not is explained."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import events, topics
from streams.events import Comment, CommentInteraction, EventError, Video, VideoView

NOW_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
VIEW: dict[str, Any] = {"event_id": "e1", "user_id": "u1", "video_id": "v1", "ts_ms": NOW_MS, "watch_ms": 9_000}
TOUCH: dict[str, Any] = {
    "event_id": "e2",
    "user_id": "u1",
    "video_id": "v1",
    "comment_id": "c1",
    "ts_ms": NOW_MS,
    "action": "like",
}
VIDEO: dict[str, Any] = {"video_id": "v1", "title": "A cat"}
COMMENT: dict[str, Any] = {"comment_id": "c1", "video_id": "v1", "text": "so true"}
GOOD = {
    topics.VIDEO_VIEWS: VIEW,
    topics.COMMENT_INTERACTIONS: TOUCH,
    topics.VIDEOS: VIDEO,
    topics.COMMENTS: COMMENT,
}
CODES = {
    "unknown-topic",
    "empty",
    "too-large",
    "not-json",
    "not-object",
    "missing-field",
    "invalid-field",
    "future-time",
    "missing-key",
    "wrong-key",
}
KEYS = {topic: GOOD[topic][field].encode() for topic, field in events.KEY_FIELDS.items()}


def without(record: dict[str, Any], field: str) -> bytes:
    return json.dumps({name: value for name, value in record.items() if name != field}).encode()


def view(**fields: Any) -> bytes:
    return json.dumps({**VIEW, **fields}).encode()


def touch(**fields: Any) -> bytes:
    return json.dumps({**TOUCH, **fields}).encode()


def raw(insert: str) -> bytes:
    """A good view with `insert` as one more member, as it stands."""
    return json.dumps(VIEW)[:-1].encode() + b"," + insert.encode("utf-8", "surrogatepass") + b"}"


BAD_VIEWS = [
    # bytes that are no JSON object
    (None, "empty", None, "JSON object was expected"),
    (b"", "empty", None, "JSON object was expected"),
    (b"   ", "not-json", None, "truncated"),
    (b"\xef\xbb\xbf" + view(), "not-json", None, "byte 0"),
    (view().decode().encode("utf-16"), "not-json", None, "UTF-8"),
    (b"\x00\x01\x02\xff", "not-json", None, "not JSON"),
    (view()[:-1], "not-json", None, "truncated"),
    (view() + view(), "not-json", None, "trailing characters"),
    (view().replace(b'"', b"'"), "not-json", None, "keys must be strings"),
    (raw('"note":NaN'), "not-json", None, "invalid"),
    (raw('"note":-Infinity'), "not-json", None, "invalid"),
    (raw('"note":007'), "not-json", None, "invalid number"),
    (raw('"note":"\n"'), "not-json", None, "invalid"),
    (raw('"note":' + "[" * 30_000 + "]" * 30_000), "not-json", None, "recursion"),
    (raw('"user_id":"\ud800"'), "not-json", None, "utf-8"),
    (view(user_id="\ud800"), "not-json", None, "surrogate"),
    (b"null", "not-object", None, "got null"),
    (b"[]", "not-object", None, "got array"),
    (b"[" * 60_000, "not-object", None, "got array"),
    (b'"view"', "not-object", None, "got str"),
    (b"17", "not-object", None, "got int"),
    # size and time
    (view(note="x" * 65_536), "too-large", None, "at most 65536"),
    (view(ts_ms=NOW_MS + DAY_MS + 1), "future-time", "ts_ms", "24 h"),
    (view(ts_ms=NOW_MS * 100), "future-time", "ts_ms", "is it in ms?"),
    # fields
    (b"{}", "missing-field", "event_id", "event_id: required"),
    (without(VIEW, "user_id"), "missing-field", "user_id", "user_id: required"),
    (without(VIEW, "watch_ms"), "missing-field", "watch_ms", "watch_ms: required"),
    (view(event_id=7), "invalid-field", "event_id", "Expected str, got int"),
    (view(user_id=""), "invalid-field", "user_id", "length >= 1"),
    (view(user_id="u" * 129), "invalid-field", "user_id", "length <= 128"),
    (view(video_id=None), "invalid-field", "video_id", "got null"),
    (view(ts_ms="2023-11-14"), "invalid-field", "ts_ms", "Expected int, got str"),
    (view(ts_ms=-1), "invalid-field", "ts_ms", ">= 0"),
    (view(ts_ms=10**400), "invalid-field", "ts_ms", "<= 253402300799999"),
    (view(ts_ms=2**63), "invalid-field", "ts_ms", "<= 253402300799999"),
    (view(ts_ms=1.7e12), "invalid-field", "ts_ms", "got float"),
    (view(watch_ms=True), "invalid-field", "watch_ms", "got bool"),
    (view(watch_ms=1.5), "invalid-field", "watch_ms", "got float"),
    (view(watch_ms=31 * DAY_MS), "invalid-field", "watch_ms", "<= 2592000000"),
    (view(duration_ms=-1), "invalid-field", "duration_ms", ">= 0"),
    (view(actions="like"), "invalid-field", "actions", "Expected array"),
    (view(actions=["like", "love"]), "invalid-field", "actions", "actions[1]: Invalid enum value 'love'"),
    (view(actions=[["like"]]), "invalid-field", "actions", "actions[0]: Expected str"),
    (view(actions=["x" * 60_000]), "invalid-field", "actions", "actions[0]: Invalid enum value 'xxx"),
    (view(actions=["missing required field `ts_ms`"]), "invalid-field", "actions", "actions[0]: Invalid enum"),
]


@pytest.mark.parametrize(("value", "code", "field", "says"), BAD_VIEWS)
def test_a_bad_view_is_refused_and_explained(value: bytes | None, code: str, field: str | None, says: str) -> None:
    with pytest.raises(EventError) as caught:
        events.decode(topics.VIDEO_VIEWS, b"u1", value, now_ms=NOW_MS)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert says in caught.value.reason
    assert len(caught.value.reason) < 400


@pytest.mark.parametrize(
    ("topic", "key", "value", "code", "field", "says"),
    [
        (topics.VIDEO_VIEWS, None, view(), "missing-key", "user_id", "its key must be its user_id"),
        (topics.VIDEO_VIEWS, b"", view(), "wrong-key", "user_id", "'u1'"),
        (topics.VIDEO_VIEWS, b"\xff\xfe", view(), "wrong-key", "user_id", "xff"),
        (topics.VIDEO_VIEWS, b"k" * 9999, view(), "wrong-key", "user_id", "kkk"),
        (topics.VIDEOS, b"v2", json.dumps(VIDEO).encode(), "wrong-key", "video_id", "'v1'"),
        (topics.COMMENTS, b"v1", json.dumps(COMMENT).encode(), "wrong-key", "comment_id", "'c1'"),
        ("video_views", b"u1", view(), "unknown-topic", None, "known: video-views"),
        (topics.COMMENT_INTERACTIONS, b"u1", touch(action="share"), "invalid-field", "action", "'share'"),
        (topics.COMMENT_INTERACTIONS, b"u1", touch(action=["like"]), "invalid-field", "action", "got array"),
        (topics.COMMENT_INTERACTIONS, b"u1", touch(dwell_ms=-5), "invalid-field", "dwell_ms", ">= 0"),
        (topics.COMMENT_INTERACTIONS, b"u1", without(TOUCH, "comment_id"), "missing-field", "comment_id", "required"),
        (topics.VIDEOS, b"v1", b'{"video_id":"v1","title":null}', "invalid-field", "title", "Expected str"),
        (topics.VIDEOS, b"v1", b'{"video_id":"v1","title":"","tags":["a",2]}', "invalid-field", "tags", "tags[1]"),
        (topics.VIDEOS, b"v1", b'{"video_id":"v1"}', "missing-field", "title", "required"),
        (topics.COMMENTS, b"c1", without(COMMENT, "text"), "missing-field", "text", "required"),
        (
            topics.COMMENTS,
            b"c1",
            json.dumps({**COMMENT, "like_count": -1}).encode(),
            "invalid-field",
            "like_count",
            ">= 0",
        ),
    ],
)
def test_a_bad_record_of_any_topic_is_refused_and_explained(
    topic: str, key: bytes | None, value: bytes, code: str, field: str | None, says: str
) -> None:
    with pytest.raises(EventError) as caught:
        events.decode(topic, key, value, now_ms=NOW_MS)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert says in caught.value.reason
    assert len(caught.value.reason) < 400


@pytest.mark.parametrize("topic", GOOD)
def test_unknown_fields_are_ignored(topic: str) -> None:
    more = {**GOOD[topic], "app": {"name": "android", "builds": [1, None, 2.5]}, "": "x"}
    plain = events.decode(topic, KEYS[topic], json.dumps(GOOD[topic]).encode(), now_ms=NOW_MS)
    assert events.decode(topic, KEYS[topic], json.dumps(more).encode(), now_ms=NOW_MS) == plain


def test_the_limits_themselves_are_accepted() -> None:
    longest = "é" * 128
    value = view(user_id=longest, ts_ms=NOW_MS + DAY_MS, watch_ms=30 * DAY_MS, duration_ms=0, actions=[])
    value = value[:-1] + b" " * (events.MAX_VALUE_BYTES - len(value)) + b"}"
    event = events.decode(topics.VIDEO_VIEWS, longest.encode(), value, now_ms=NOW_MS)
    assert event == VideoView("e1", longest, "v1", NOW_MS + DAY_MS, 30 * DAY_MS, 0, ())


def test_of_a_repeated_member_the_last_one_counts() -> None:
    value = raw('"user_id":"u2"')
    assert events.decode(topics.VIDEO_VIEWS, b"u2", value, now_ms=NOW_MS).user_id == "u2"  # type: ignore[union-attr]
    with pytest.raises(EventError, match="its user_id is 'u2'"):
        events.decode(topics.VIDEO_VIEWS, b"u1", value, now_ms=NOW_MS)


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
spans = st.integers(0, 30 * DAY_MS)
times = st.integers(0, NOW_MS + DAY_MS)
records = st.one_of(
    st.builds(
        VideoView,
        ids,
        ids,
        ids,
        times,
        spans,
        st.none() | spans,
        st.none() | st.lists(st.sampled_from(["like", "follow", "forward", "collect", "comment", "hate"])).map(tuple),
    ),
    st.builds(
        CommentInteraction,
        ids,
        ids,
        ids,
        ids,
        times,
        st.sampled_from(["view", "expand", "like", "reply", "write"]),
        st.none() | spans,
    ),
    st.builds(
        Video, ids, texts, st.none() | st.lists(texts).map(tuple), st.none() | ids, st.none() | spans, st.none() | times
    ),
    st.builds(Comment, ids, ids, texts, st.none() | ids, st.none() | st.integers(0, 2**63 - 1), st.none() | times),
)
TOPIC_OF = {type_: topic for topic, type_ in events.TYPES.items()}


@given(records)
def test_what_is_encoded_is_decoded(record: events.Record) -> None:
    topic = TOPIC_OF[type(record)]
    key = events.key_of(topic, record).encode()
    assert events.decode(topic, key, events.encode(record), now_ms=NOW_MS) == record


def decodes_or_explains(topic: str, key: bytes | None, value: bytes) -> None:
    caught = None
    try:
        events.decode(topic, key, value, now_ms=NOW_MS)
    except EventError as error:
        caught = error
    if caught is not None:
        assert caught.code in CODES
        assert 0 < len(caught.reason) < 400
        assert str(caught) == caught.reason
        assert caught.field is None or caught.field in events.TYPES[topic].__struct_fields__


@given(st.sampled_from(list(GOOD)), st.none() | st.binary(max_size=40), st.binary(max_size=200))
def test_noise_raises_nothing_but_event_errors(topic: str, key: bytes | None, value: bytes) -> None:
    decodes_or_explains(topic, key, value)


@given(st.data(), st.sampled_from(list(GOOD)))
def test_damaged_bytes_raise_nothing_but_event_errors(data: st.DataObject, topic: str) -> None:
    value = json.dumps(GOOD[topic]).encode()
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, min(len(value), start + 8)))
    decodes_or_explains(topic, KEYS[topic], value[:start] + data.draw(st.binary(max_size=8)) + value[end:])


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(), max_size=20),  # lone surrogates too
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), st.sampled_from(list(GOOD)), any_json)
def test_any_json_in_any_field_raises_nothing_but_event_errors(
    data: st.DataObject, topic: str, something: object
) -> None:
    field = data.draw(st.sampled_from(list(events.TYPES[topic].__struct_fields__)))
    decodes_or_explains(topic, KEYS[topic], json.dumps({**GOOD[topic], field: something}).encode())
