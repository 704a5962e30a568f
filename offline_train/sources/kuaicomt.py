"""KuaiComt as events: Kuaishou's short videos, who watched them, and who did what with the comments under them.

Files (shared by the data set's owners on request): `user_video_inter.csv`, `user_comment_inter.csv`,
`video_features.csv`, `comment_features.csv`. They have millions of rows, so they are streamed and sorted on disk.

What to know of the data:

* `time_ms` of a view is in ms, `time_stamp` of a comment interaction in seconds. A time before 2010 or after tomorrow
  is dropped and counted: its unit is then not what the description says.
* A row with neither `is_like` nor `is_reply` becomes `view`, which is all that is known; one with both, two events.
* `comment_like_cnt` is a snapshot from after the period: as `like_count` it would tell the future, so it is left out
  unless `snapshot_likes` asks for it (for serving, not for evaluation).
* Comments have no creation time. They are in the order of their first interaction, those without one last.
* The unit of `video_features.duration` is not described, so a video's duration is that of its first view.
"""

from __future__ import annotations

import csv
import tempfile
import time
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from offline_train.sources.sorting import TimeSorter
from offline_train.sources.writer import LogWriter, Progress, SourceError, no_progress, require
from streams import topics
from streams.events import Comment, CommentAction, CommentInteraction, Video, VideoAction, VideoView, encode
from streams.history import engages, event_digest

ORIGIN = (
    "KuaiComt data: its owners share it on request (see the data set's page); put user_video_inter.csv, "
    "user_comment_inter.csv, video_features.csv and comment_features.csv into this folder."
)
_MAX_SPAN_MS = 30 * 24 * 3600 * 1000
_FIRST_MS = int(datetime(2010, 1, 1, tzinfo=UTC).timestamp() * 1000)
_NEVER = 1 << 62
_CHINA = timezone(timedelta(hours=8))  #: `upload_dt` is a local day; its start lies before any view of that day

_VIDEO_FLAGS: tuple[tuple[str, VideoAction], ...] = (
    ("is_like", "like"),
    ("is_follow", "follow"),
    ("is_forward", "forward"),
    ("is_collect", "collect"),
    ("is_comment", "comment"),
    ("is_hate", "hate"),
)
_COMMENT_FLAGS: tuple[tuple[str, CommentAction], ...] = (("is_like", "like"), ("is_reply", "reply"))
_VIEW_COLUMNS = {"user_id", "video_id", "time_ms", "play_time_ms", "duration_ms", *(flag for flag, _ in _VIDEO_FLAGS)}
_INTERACTION_COLUMNS = {"user_id", "comment_id", "time_stamp", "photo_id", *(flag for flag, _ in _COMMENT_FLAGS)}


def convert(source: Path, out: Path, *, snapshot_likes: bool = False, progress: Progress = no_progress) -> LogWriter:
    """Convert the folder `source` into a log in `out`; needs about the input's size of disk in `out` meanwhile.

    Raises:
        SourceError: a file is missing or has other columns.
    """
    views = require(source, "user_video_inter.csv", ORIGIN)
    interactions = require(source, "user_comment_inter.csv", ORIGIN)
    video_features = require(source, "video_features.csv", ORIGIN)
    comment_features = require(source, "comment_features.csv", ORIGIN)
    with LogWriter(out, "kuaicomt") as log, tempfile.TemporaryDirectory(prefix=".sorting-", dir=out) as runs:
        reader = _Reader(log, Path(runs), progress)
        reader.views(views)
        reader.interactions(interactions)
        reader.videos(video_features)
        reader.comments(comment_features, snapshot_likes)
    return log


class _Reader:
    """One conversion: reads the four files in turn, keeping of each what the next ones need."""

    def __init__(self, log: LogWriter, runs: Path, progress: Progress) -> None:
        self._log, self._runs, self._progress = log, runs, progress
        self._last_ms = int(time.time() * 1000) + 24 * 3600 * 1000
        self._video_first: dict[str, tuple[int, int | None]] = {}  # of each viewed video: first time, duration
        self._comment_keys = array("Q")  # of each interaction: comment and time
        self._comment_times = array("q")

    def views(self, path: Path) -> None:
        sorter = TimeSorter(self._runs, "views")
        drop, disagree = self._log.drop, 0
        for number, row in self._rows(path, _VIEW_COLUMNS):
            user_id, video_id = _id(row["user_id"]), _id(row["video_id"])
            ts_ms = self._time(_number(row["time_ms"]))
            watch_ms, duration_ms = _number(row["play_time_ms"]), _number(row["duration_ms"])
            if not user_id or not video_id:
                drop(f"{path.name}: no user_id or video_id")
                continue
            if ts_ms is None:
                drop(f"{path.name}: time_ms missing or not a time in ms")
                continue
            if watch_ms is not None and not 0 <= watch_ms <= _MAX_SPAN_MS:
                drop(f"{path.name}: play_time_ms negative or over 30 days")
                continue
            if duration_ms is not None and not 0 < duration_ms <= _MAX_SPAN_MS:
                duration_ms = None
            actions = tuple(action for flag, action in _VIDEO_FLAGS if _flag(row[flag]))
            event = VideoView(f"kc-v-{number}", user_id, video_id, ts_ms, watch_ms or 0, duration_ms, actions or None)
            disagree += "long_view" in row and not actions and _flag(row["long_view"]) != engages(event)
            first = self._video_first.get(video_id)
            if first is None or ts_ms < first[0]:
                self._video_first[video_id] = (ts_ms, duration_ms or (first[1] if first else None))
            elif first[1] is None and duration_ms is not None:
                self._video_first[video_id] = (first[0], duration_ms)
            sorter.add(ts_ms, encode(event))
        if disagree:
            self._log.summary.notes["views whose long_view flag says otherwise than their play_time_ms"] = disagree
        self._write(topics.VIDEO_VIEWS, sorter)

    def interactions(self, path: Path) -> None:
        sorter = TimeSorter(self._runs, "interactions")
        drop = self._log.drop
        for number, row in self._rows(path, _INTERACTION_COLUMNS):
            user_id, video_id, comment_id = _id(row["user_id"]), _id(row["photo_id"]), _id(row["comment_id"])
            seconds = _number(row["time_stamp"])
            ts_ms = self._time(None if seconds is None else seconds * 1000)
            if not user_id or not video_id or not comment_id:
                drop(f"{path.name}: no user_id, photo_id or comment_id")
                continue
            if ts_ms is None:
                drop(f"{path.name}: time_stamp missing or not a time in seconds")
                continue
            self._comment_keys.append(_key(comment_id))
            self._comment_times.append(ts_ms)
            actions = [action for flag, action in _COMMENT_FLAGS if _flag(row[flag])] or ["view"]
            for later, action in enumerate(actions):
                name = f"kc-c-{number}-{action}" if len(actions) > 1 else f"kc-c-{number}"
                event = CommentInteraction(name, user_id, video_id, comment_id, ts_ms + later, action)
                sorter.add(ts_ms + later, encode(event))
        self._write(topics.COMMENT_INTERACTIONS, sorter)

    def videos(self, path: Path) -> None:
        made: list[tuple[int, int, Video]] = []
        known: set[str] = set()
        for number, row in self._rows(path, {"video_id", "author_id", "upload_dt", "caption", "category"}):
            video_id = _id(row["video_id"])
            if not video_id or video_id in known:
                self._log.drop(f"{path.name}: " + ("video_id repeated" if video_id else "no video_id"))
                continue
            known.add(video_id)
            created_ms = upload_ms(row["upload_dt"])
            first_ms, duration_ms = self._video_first.get(video_id, (_NEVER, None))
            category = _text(row["category"])
            video = Video(
                video_id,
                _text(row["caption"]),
                tags=(category,) if category else None,
                author_id=_id(row["author_id"]) or None,
                duration_ms=duration_ms,
                created_ms=created_ms,
            )
            made.append((first_ms if created_ms is None else created_ms, number, video))
        for _, _, video in sorted(made, key=lambda entry: entry[:2]):
            self._log.write(video)

    def comments(self, path: Path, snapshot_likes: bool) -> None:
        keys, first_ms = first_times(self._comment_keys, self._comment_times)
        sorter = TimeSorter(self._runs, "comments")
        for _, row in self._rows(path, {"comment_id", "comment_content", "video_id", "comment_like_cnt"}):
            comment_id, video_id, text = _id(row["comment_id"]), _id(row["video_id"]), _text(row["comment_content"])
            if not comment_id or not video_id:
                self._log.drop(f"{path.name}: no comment_id or video_id")
                continue
            if not text:
                self._log.drop(f"{path.name}: no text")
                continue
            likes = _number(row["comment_like_cnt"]) if snapshot_likes else None
            like_count = likes if likes is not None and likes >= 0 else None
            at = int(np.searchsorted(keys, np.uint64(_key(comment_id))))
            found = at < len(keys) and int(keys[at]) == _key(comment_id)
            comment = Comment(comment_id, video_id, text, like_count=like_count)
            sorter.add(int(first_ms[at]) if found else _NEVER, encode(comment))
        self._write(topics.COMMENTS, sorter)

    def _rows(self, path: Path, columns: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Rows with their numbers from 1; one with too few fields is dropped. Progress is in MB of the file."""
        total = path.stat().st_size >> 20
        with path.open("rb") as file, TextIOWrapper(file, "utf-8-sig", "replace", newline="") as lines:
            reader = csv.reader(lines)
            names = [name.strip() for name in next(reader, [])]
            missing = columns - set(names)
            if missing:
                raise SourceError(f"{path} has no column {', '.join(sorted(missing))}. {ORIGIN}")
            for number, fields in enumerate(reader, 1):
                if number % 50_000 == 0:
                    self._progress(f"{path.name} (MB)", file.tell() >> 20, total)
                if len(fields) == len(names):
                    yield number, dict(zip(names, fields, strict=True))
                elif fields:
                    self._log.drop(f"{path.name}: {len(names)} fields expected")
        self._progress(f"{path.name} (MB)", total, total)

    def _write(self, topic: str, sorter: TimeSorter) -> None:
        for done, line in enumerate(sorter, 1):
            self._log.write_line(topic, line)
            if done % 50_000 == 0 or done == len(sorter):
                self._progress(f"writing {topic}", done, len(sorter))

    def _time(self, ts_ms: int | None) -> int | None:
        return ts_ms if ts_ms is not None and _FIRST_MS <= ts_ms <= self._last_ms else None


def first_times(keys: array[int], times: array[int]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys (uint64, ascending) and the smallest time of each (int64)."""
    if not keys:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    key, at = np.frombuffer(keys, np.uint64), np.frombuffer(times, np.int64)
    order = np.argsort(key, kind="stable")
    distinct, start = np.unique(key[order], return_index=True)
    return distinct, np.minimum.reduceat(at[order], start)


def upload_ms(text: str) -> int | None:
    """Start of the day `2023-10-05` or `20231005` in China, Unix ms; None if it is none. A time after it is ignored."""
    day = text.strip()[:10].replace("-", "").replace("/", "")[:8]
    try:
        return int(datetime.strptime(day, "%Y%m%d").replace(tzinfo=_CHINA).timestamp() * 1000)
    except ValueError:
        return None


def _id(text: str) -> str:
    """An id without the `.0` that it gets where a table once held it as a float."""
    text = text.strip()
    if text.endswith(".0") and text[:-2].isdigit():
        return text[:-2]
    return "" if text.lower() == "nan" else text


def _key(comment_id: str) -> int:
    """64 bits for a comment: the number that it is, else a digest."""
    return int(comment_id) if comment_id.isdecimal() and len(comment_id) < 20 else event_digest(comment_id)


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _flag(text: str) -> bool:
    return bool(_number(text))


def _text(text: str) -> str:
    text = " ".join(text.split())
    return "" if text.lower() == "nan" else text
