import gzip
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from model_runtime.stores import FolderStore
from offline_train import event_rows
from offline_train.archived import archived_until
from offline_train.corpus import Corpus
from offline_train.log import INTERACTION, NEVER, VIEW, Log, LogError
from offline_train.sources.simulator import Simulator
from offline_train.sources.simulator_config import SimulatorConfig
from streams.archive import date_of
from streams.archive_files import Part, Row, encode_rows
from streams.events import Comment, CommentInteraction, Video, VideoView, decode_value, encode, key_of
from streams.history import HistoryConfig, engages, event_digest
from streams.topics import CATALOG_TOPICS, EVENT_TOPICS

CATALOG = [
    Video("v1", "Cats", ("pets", "funny"), created_ms=100),
    Video("v2", "Dogs"),
    Comment("c1", "v1", "so cute", user_id="u2", like_count=3, created_ms=500),
    Comment("c2", "v1", "aww", user_id="stranger"),
]
EVENTS = [
    VideoView("e3", "u1", "v3", 900, 20_000, 60_000),
    VideoView("e1", "u1", "v1", 300, 100, 60_000, ("hate",)),
    CommentInteraction("e2", "u2", "v1", "c1", 400, "write"),
    CommentInteraction("e4", "u1", "v2", "c9", 950, "expand"),
]


def write(folder, name, records):
    (folder / name).write_bytes(b"".join(encode(record) + b"\n" for record in records))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "videos.jsonl", CATALOG[:2])
    write(tmp_path, "comments.jsonl", CATALOG[2:])
    write(tmp_path, "video-views.jsonl", EVENTS[:2])
    write(tmp_path, "comment-interactions.jsonl", EVENTS[2:])
    return tmp_path


def test_reads_columns_in_time_order(folder):
    log = Log.read(folder)
    assert log.video_ids == ["v1", "v2", "v3"]
    assert log.video_titles == ["Cats pets funny", "Dogs", ""]
    assert log.event_ids == ["e1", "e2", "e3", "e4"]
    assert log.kind.tolist() == [VIEW, INTERACTION, VIEW, INTERACTION]
    assert log.engaged.tolist() == [False, True, True, False]
    assert log.hate.tolist() == [True, False, False, False]
    assert log.wrote().tolist() == [False, True, False, False]
    assert log.digest.tolist() == [event_digest(name) for name in log.event_ids]
    assert [log.user_ids[u] for u in log.user] == ["u1", "u2", "u1", "u1"]
    assert log.comment.tolist() == [-1, 0, -1, 2]


def test_knows_authors_likes_and_first_appearance(folder):
    log = Log.read(folder)
    assert log.comment_ids == ["c1", "c2", "c9"]
    assert log.comment_author.tolist() == [log.user_index["u2"], -1, -1]
    assert log.comment_likes.tolist() == [3, -1, -1]
    assert log.comment_video.tolist() == [0, 0, 1]
    assert log.first_seen_video.tolist() == [100, 950, 900]
    assert log.first_seen_comment.tolist() == [400, NEVER, 950]


def test_events_come_back_as_they_were(folder):
    log = Log.read(folder)
    assert {log.event(i) for i in range(log.events)} == set(EVENTS)
    assert log.engaged.tolist() == [engages(log.event(i)) for i in range(log.events)]


def test_engagement_follows_the_configuration(folder):
    log = Log.read(folder, HistoryConfig(long_view_ms=50_000, comment_actions=("expand",)))
    assert log.engaged.tolist() == [False, False, False, True]


def test_reads_gzip_and_counts_a_repeated_event_once(folder):
    plain = Log.read(folder)
    views = (folder / "video-views.jsonl").read_bytes()
    (folder / "video-views.jsonl").unlink()
    (folder / "video-views.jsonl.gz").write_bytes(gzip.compress(views + views))
    again = Log.read(folder)
    assert again.event_ids == plain.event_ids
    assert np.array_equal(again.ts_ms, plain.ts_ms)


def test_one_id_for_a_view_and_an_interaction_is_two_events() -> None:
    one = VideoView("e", "u", "v", 5, 1_000)
    log = Log.build(
        [], [one, CommentInteraction("e", "u", "v", "c", 5, "like"), one, VideoView("e", "w", "v", 5, 1_000)]
    )
    assert sorted(zip(log.kind.tolist(), log.user.tolist(), strict=True)) == [(VIEW, 0), (VIEW, 1), (INTERACTION, 0)]


def test_a_bad_line_is_named(folder):
    with (folder / "video-views.jsonl").open("a") as file:
        file.write('{"event_id": "x", "user_id": "u", "video_id": "v", "watch_ms": 1}\n')
    with pytest.raises(LogError, match=r"video-views\.jsonl, line 3: ts_ms: required field is missing"):
        Log.read(folder)


def test_a_folder_without_events_is_refused(tmp_path):
    with pytest.raises(LogError, match="no events"):
        Log.read(tmp_path)
    with pytest.raises(LogError, match="no folder"):
        Log.read(tmp_path / "missing")


def test_a_log_and_a_corpus_in_files_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_rows, "_BLOCK", 97)  # so that there are many blocks, and the last is not full
    source = tmp_path / "log"
    Simulator(SimulatorConfig(seed=2, users=60, videos=80, comments=120, days=4, interactions=800)).write(source)
    memory, files = Log.read(source), Log.read(source, folder=tmp_path / "files")
    assert isinstance(files.ts_ms, np.memmap)
    for field in fields(Log):
        assert np.array_equal(getattr(memory, field.name), getattr(files, field.name)), field.name
    assert files.event_ids[3:5] == [memory.event_ids[3], memory.event_ids[4]]
    one, other = Corpus.build(memory), Corpus.build(files, folder=tmp_path / "files" / "corpus")
    assert isinstance(other.samples.video_end, np.memmap)
    for name in ("video_offsets", "videos", "comment_offsets", "comments", "comment_videos", "seen_offsets", "seen"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for field in fields(one.samples):
        assert np.array_equal(getattr(one.samples, field.name), getattr(other.samples, field.name)), field.name
    # Reading another log into the folder does not change what a log that is in use has mapped.
    before = files.ts_ms.copy()
    Simulator(SimulatorConfig(seed=3, users=60, videos=80, comments=120, days=4, interactions=700)).write(source)
    Log.read(source, folder=tmp_path / "files")
    assert np.array_equal(files.ts_ms, before)


def test_an_archive_reads_as_the_same_log(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    Simulator(SimulatorConfig(seed=2, users=60, videos=80, comments=120, days=4, interactions=800)).write(folder)
    lines = {t: (folder / f"{t}.jsonl").read_bytes().splitlines() for t in (*CATALOG_TOPICS, *EVENT_TOPICS)}
    store = FolderStore(tmp_path / "archive")
    for topic, values in lines.items():
        rows = []
        for offset, value in enumerate(values):
            event = decode_value(topic, value, now_ms=2**60)
            ts_ms = getattr(event, "ts_ms", None)
            rows.append(
                Row(offset, 1_700_000_000_000, key_of(topic, event).encode(), value, None, None, None, None, ts_ms)
            )
        rows.append(Row(len(rows), 1_700_000_000_000, b"u", b"nonsense", "not-json: ...", None, None, None, None))
        rows.append(Row(len(rows), 1_700_000_000_000, b"v", None, None, None, None, None, None))
        if topic in EVENT_TOPICS:
            rows.pop()
        for number, date in enumerate(sorted(dates := {date_of(row, "day") for row in rows}), 1):
            some = [row for row in rows if date_of(row, "day") == date]
            part = Part(topic, 0, 0, len(rows) - 1, number, len(dates), date, len(some))
            store.put(part.name, encode_rows(some))
    one, other = Log.read(folder), Log.read(tmp_path / "archive")
    for field in fields(Log):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert Log.read(store.uri).events == one.events
    days = sorted({str(np.datetime64(int(ms), "ms"))[:10] for ms in one.ts_ms})
    late = Log.read(tmp_path / "archive", since=days[2])
    assert late.events == int((one.ts_ms >= np.datetime64(days[2], "ms").astype(int)).sum()) < one.events
    views = archived_until(tmp_path / "archive") | {("video-views", 0): 10, ("comment-interactions", 0): 0}
    assert Log.read(tmp_path / "archive", until=views).events == 10
