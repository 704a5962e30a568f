"""The KuaiComt adapter on small files in the data set's format."""

from __future__ import annotations

import csv
import json
from array import array
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_train.sources import kuaicomt
from offline_train.sources.kuaicomt import first_times, upload_ms
from offline_train.sources.sorting import TimeSorter
from offline_train.sources.writer import SourceError, Summary

_VIEWS = (
    "user_id,video_id,p_hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_collect,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time"
)
VIEWS = _VIEWS.split(",")
INTERACTIONS = ["user_id", "comment_id", "time_stamp", "photo_id", "is_like", "is_reply"]
VIDEOS = ["video_id", "author_id", "video_type", "upload_dt", "caption", "duration", "category"]
COMMENTS = ["comment_id", "comment_content", "video_id", "comment_like_cnt", "comment_reply_out", "show_comment_cnt_td"]
T_MS = 1_697_000_000_123
T_S = 1_697_000_000


class KuaiComt:
    """Writes the four files and converts them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.rows: dict[str, list[dict[str, Any]]] = {"views": [], "interactions": [], "videos": [], "comments": []}

    def view(self, user: Any = 1, video: Any = 10, **fields: Any) -> KuaiComt:
        row = dict.fromkeys(VIEWS, 0) | {"user_id": user, "video_id": video, "time_ms": T_MS}
        self.rows["views"].append(row | {"play_time_ms": 5_000, "duration_ms": 20_000} | fields)
        return self

    def interaction(self, user: Any = 1, comment: Any = 100, **fields: Any) -> KuaiComt:
        row = {"user_id": user, "comment_id": comment, "time_stamp": T_S, "photo_id": 10, "is_like": 0, "is_reply": 0}
        self.rows["interactions"].append(row | fields)
        return self

    def video(self, video: Any = 10, **fields: Any) -> KuaiComt:
        row = dict.fromkeys(VIDEOS, "") | {"video_id": video, "author_id": 5, "caption": "A cat"}
        self.rows["videos"].append(row | fields)
        return self

    def comment(self, comment: Any = 100, **fields: Any) -> KuaiComt:
        row = dict.fromkeys(COMMENTS, 0) | {"comment_id": comment, "comment_content": "Nice", "video_id": 10}
        self.rows["comments"].append(row | fields)
        return self

    def convert(self, **options: Any) -> Summary:
        names = ("user_video_inter", "user_comment_inter", "video_features", "comment_features")
        columns = (VIEWS, INTERACTIONS, VIDEOS, COMMENTS)
        for name, header, rows in zip(names, columns, self.rows.values(), strict=True):
            with (self.folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, header)
                writer.writeheader()
                writer.writerows(rows)
        return kuaicomt.convert(self.folder, self.out, **options).summary

    def read(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def kuai(tmp_path: Path) -> KuaiComt:
    return KuaiComt(tmp_path)


def test_flags_become_actions(kuai: KuaiComt) -> None:
    flags = dict.fromkeys(["is_like", "is_follow", "is_comment", "is_forward", "is_collect", "is_hate", "is_click"], 1)
    kuai.view(**flags).view(user=2, is_hate="1.0", is_like="").view(user=3, is_click=1, long_view=0)
    kuai.convert()
    actions = {view["user_id"]: view.get("actions") for view in kuai.read("video-views")}
    everything = ["like", "follow", "forward", "collect", "comment", "hate"]
    assert actions == {"1": everything, "2": ["hate"], "3": None}


def test_views_are_in_ms_and_comments_in_seconds(kuai: KuaiComt) -> None:
    kuai.view().interaction(is_like=1).convert()
    assert kuai.read("video-views")[0]["ts_ms"] == T_MS
    assert kuai.read("comment-interactions")[0]["ts_ms"] == T_S * 1000


def test_a_time_in_the_other_unit_is_dropped_and_counted(kuai: KuaiComt) -> None:
    kuai.view(time_ms=T_S).view(user=2).interaction(time_stamp=T_MS).interaction(user=2, time_stamp="")
    summary = kuai.convert()
    assert [view["user_id"] for view in kuai.read("video-views")] == ["2"]
    assert kuai.read("comment-interactions") == []
    assert summary.dropped == {
        "user_video_inter.csv: time_ms missing or not a time in ms": 1,
        "user_comment_inter.csv: time_stamp missing or not a time in seconds": 2,
    }


def test_what_was_done_with_a_comment(kuai: KuaiComt) -> None:
    kuai.interaction(1).interaction(2, is_like=1).interaction(3, is_reply=1).interaction(4, is_like=1, is_reply=1)
    kuai.convert()
    done = [(event["user_id"], event["action"]) for event in kuai.read("comment-interactions")]
    assert done == [("1", "view"), ("2", "like"), ("3", "reply"), ("4", "like"), ("4", "reply")]
    events = kuai.read("comment-interactions")
    assert len({event["event_id"] for event in events}) == 5
    assert events[4]["ts_ms"] == events[3]["ts_ms"] + 1


def test_missing_fields(kuai: KuaiComt) -> None:
    kuai.view(play_time_ms="", duration_ms="").view(user="").view(user=3, play_time_ms=-4)
    kuai.interaction(comment="").comment(comment_content="  ").comment(101, video_id="nan").video("")
    summary = kuai.convert()
    (view,) = kuai.read("video-views")
    assert view["watch_ms"] == 0
    assert "duration_ms" not in view
    assert sum(summary.dropped.values()) == 6
    assert kuai.read("comments") == kuai.read("videos") == []


def test_a_short_row_is_dropped_and_a_blank_line_is_nothing(kuai: KuaiComt) -> None:
    kuai.view().convert()
    with (kuai.folder / "user_video_inter.csv").open("a") as file:
        file.write("\n7,8,9\n")
    summary = kuai_again(kuai)
    assert summary.dropped == {"user_video_inter.csv: 16 fields expected": 1}
    assert len(kuai.read("video-views")) == 1


def kuai_again(kuai: KuaiComt) -> Summary:
    return kuaicomt.convert(kuai.folder, kuai.out).summary


def test_captions_and_comments_with_quotes_commas_and_newlines(kuai: KuaiComt) -> None:
    caption, text = 'She said "no",\nthen\r\nleft, 再见', 'Line one\n"two", 三'
    kuai.video(caption=caption).comment(comment_content=text).video(11, caption="after").convert()
    assert [video["title"] for video in kuai.read("videos")] == ['She said "no", then left, 再见', "after"]
    assert kuai.read("comments")[0]["text"] == 'Line one "two", 三'


def test_ids_that_were_floats_are_the_same_ids(kuai: KuaiComt) -> None:
    kuai.view("1.0", "10.0").interaction("1", photo_id="10.0", comment="100.0").video("10.0").comment("100")
    kuai.convert()
    assert kuai.read("video-views")[0]["video_id"] == kuai.read("videos")[0]["video_id"] == "10"
    assert kuai.read("comment-interactions")[0]["comment_id"] == kuai.read("comments")[0]["comment_id"] == "100"


def test_a_video_gets_its_upload_day_its_category_and_its_first_views_duration(kuai: KuaiComt) -> None:
    kuai.view(time_ms=T_MS + 5, duration_ms=9_000).view(user=2, duration_ms=20_000)
    kuai.video(upload_dt="2023-10-05", category="pets", duration=20)
    kuai.convert()
    (video,) = kuai.read("videos")
    china = timezone(timedelta(hours=8))
    assert video["created_ms"] == datetime(2023, 10, 5, tzinfo=china).timestamp() * 1000
    assert (video["tags"], video["duration_ms"], video["author_id"]) == (["pets"], 20_000, "5")


@pytest.mark.parametrize("text", ["2023-10-05", "20231005", "2023/10/05", "2023-10-05 11:22:33"])
def test_upload_days_are_read_in_their_usual_forms(text: str) -> None:
    assert upload_ms(text) == upload_ms("2023-10-05") is not None


@pytest.mark.parametrize("text", ["", "nan", "yesterday", "2023-13-05"])
def test_no_upload_day(text: str) -> None:
    assert upload_ms(text) is None


def test_like_counts_are_a_snapshot_and_left_out_unless_asked_for(kuai: KuaiComt) -> None:
    kuai.comment(comment_like_cnt=12)
    kuai.convert()
    assert "like_count" not in kuai.read("comments")[0]
    kuai.convert(snapshot_likes=True)
    assert kuai.read("comments")[0]["like_count"] == 12


def test_comments_are_in_the_order_of_their_first_interaction(kuai: KuaiComt) -> None:
    for comment in (100, 101, 102, "abc"):
        kuai.comment(comment)
    kuai.interaction(comment=102, time_stamp=T_S + 9).interaction(comment="abc", time_stamp=T_S + 5)
    kuai.interaction(2, comment=102, time_stamp=T_S + 1).interaction(comment=100, time_stamp=T_S + 7)
    kuai.convert()
    assert [comment["comment_id"] for comment in kuai.read("comments")] == ["102", "abc", "100", "101"]


def test_events_come_out_in_time_order_and_leave_nothing_behind(
    kuai: KuaiComt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuaicomt, "TimeSorter", partial(TimeSorter, run_lines=7))
    times = np.random.default_rng(1).permutation(100).tolist()
    for number, at in enumerate(times):
        kuai.view(user=number, time_ms=T_MS + at)
    kuai.convert()
    assert [view["user_id"] for view in kuai.read("video-views")] == [str(n) for n in np.argsort(times)]
    assert sorted(path.suffix for path in kuai.out.iterdir()) == [".jsonl"] * 4


def test_a_long_view_flag_that_disagrees_is_noted(kuai: KuaiComt) -> None:
    kuai.view(long_view=1).view(user=2, long_view=1, play_time_ms=18_000).view(user=3, long_view=0)
    notes = kuai.convert().notes
    assert list(notes.values()) == [1]


def test_a_column_that_is_missing_is_named(kuai: KuaiComt) -> None:
    kuai.convert()
    (kuai.folder / "user_comment_inter.csv").write_text("user_id,comment_id,is_like,is_reply\n")
    with pytest.raises(SourceError, match=r"user_comment_inter\.csv has no column photo_id, time_stamp"):
        kuai_again(kuai)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 5), st.integers(0, 10**13)), max_size=50))
def test_first_times(pairs: list[tuple[int, int]]) -> None:
    keys, times = first_times(array("Q", [key for key, _ in pairs]), array("q", [at for _, at in pairs]))
    expected: dict[int, int] = {}
    for key, at in pairs:
        expected[key] = min(at, expected.get(key, at))
    assert dict(zip(keys.tolist(), times.tolist(), strict=True)) == expected
    assert keys.tolist() == sorted(expected)
