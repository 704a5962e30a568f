"""The output records: what is written is read, and what can't be read says why."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.items import encode_items
from model_runtime.live_ranker import Part
from streams import recommendations
from streams.recommendations import Item, Kind, RecommendationError, Trigger

TRIGGER = Trigger("video-views", 3, 4711, "e1", 1_700_000_000_000)
VIDEOS = recommendations.encode_videos(
    "u1", "m1", 1_700_000_000_050, "model", TRIGGER, encode_items(["v2", "v1"], [1.5, -0.25])
)
COMMENTS = recommendations.encode_comments(
    "u1", "v9", "m1", 1_700_000_000_050, "model", TRIGGER, encode_items(["c1"], [0.5])
)
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


def test_the_record_has_the_fields_of_the_contract() -> None:
    trigger = {"topic": "video-views", "partition": 3, "offset": 4711, "event_id": "e1", "ts_ms": 1_700_000_000_000}
    common = {
        "schema_version": 1,
        "user_id": "u1",
        "model_version": "m1",
        "generated_ms": 1_700_000_000_050,
        "source": "model",
        "trigger": trigger,
    }
    assert json.loads(VIDEOS) == {**common, "items": [{"id": "v2", "score": 1.5}, {"id": "v1", "score": -0.25}]}
    assert json.loads(COMMENTS) == {**common, "video_id": "v9", "items": [{"id": "c1", "score": 0.5}]}


def test_an_explained_item_says_what_its_score_is_made_of() -> None:
    parts = [Part(1.0, 0.5, ("nearest", "newest")), Part(-0.25, 0.0, ())]
    value = recommendations.encode_videos(
        "u1", "m1", 2, "live", TRIGGER, encode_items(["v2", "v1"], [1.5, -0.25], parts)
    )
    assert json.loads(value)["items"] == [
        {"id": "v2", "score": 1.5, "sr": 1.0, "live": 0.5, "sources": ["nearest", "newest"]},
        {"id": "v1", "score": -0.25, "sr": -0.25, "live": 0.0},
    ]
    assert recommendations.decode("videos", value).items[0].sources == ("nearest", "newest")


@given(ids, ids, st.lists(st.tuples(ids, st.floats(-1e6, 1e6)), max_size=120))
def test_what_is_written_is_read(user: str, video: str, items: list[tuple[str, float]]) -> None:
    names, scores = [name for name, _ in items], [score for _, score in items]
    value = recommendations.encode_comments(user, video, "m", 1, "model", TRIGGER, encode_items(names, scores))
    record = recommendations.decode("comments", value)
    assert isinstance(record, recommendations.CommentRecommendations)
    assert (record.user_id, record.video_id, record.trigger) == (user, video, TRIGGER)
    assert record.items == tuple(Item(name, score) for name, score in items)
    assert recommendations.encode(record) == value


def test_fields_that_are_added_later_are_ignored() -> None:
    more = {**json.loads(VIDEOS), "experiment": {"arm": 2}}
    assert recommendations.decode("videos", json.dumps(more).encode()) == recommendations.decode("videos", VIDEOS)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (
            "videos",
            VIDEOS.replace(b'"schema_version":1', b'"schema_version":2'),
            "schema version 2; this release reads 1",
        ),
        ("videos", b'{"schema_version":9,"lists":[]}', "schema version 9; this release reads 1: upgrade"),
        ("comments", VIDEOS, "missing required field `video_id`"),
        ("videos", b"{}", "missing required field `schema_version`"),
        ("videos", VIDEOS[:-2], "truncated"),
        ("videos", VIDEOS.replace(b"1.5", b"null"), "items[0].score"),
        ("videos", b"\xff\xfe", "not a recommendation of videos"),
        ("videos", b"[" * 60_000, "not a recommendation of videos"),
    ],
)
def test_what_can_not_be_read_says_why(kind: Kind, value: bytes, says: str) -> None:
    with pytest.raises(RecommendationError) as caught:
        recommendations.decode(kind, value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("names", "scores", "says"),
    [
        (["v1"], [], "1 ids but 0 scores"),
        (["v1"], [float("nan")], "not finite"),
        (["v1", "v2"], [float("inf"), -float("inf")], "not finite"),
    ],
)
def test_a_list_that_has_no_meaning_is_not_written(names: list[str], scores: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        recommendations.encode_videos("u1", "m1", 1, "model", TRIGGER, encode_items(names, scores))
