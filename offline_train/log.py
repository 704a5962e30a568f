"""A log of events and catalog entries, as columns.

A log is a folder of JSON lines, one file per input topic, as `lsvcr convert` writes it: `videos.jsonl`,
`comments.jsonl`, `video-views.jsonl`, `comment-interactions.jsonl`; each may be gzipped (`.gz`) and any may be missing,
except that there must be events. Every line is checked as the worker checks a record. Or it is an archive of these
topics (`lsvcr archive`), a folder or an address such as `s3://bucket/archive`.

    log = Log.read("data/hetrec")
    log.ts_ms[log.engaged & (log.kind == VIEW)]
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import get_args

import numpy as np

from offline_train.archived import ArchiveError, StoreError, is_archive, records
from streams import topics
from streams.events import (
    Comment,
    CommentAction,
    CommentInteraction,
    EventError,
    Record,
    Video,
    VideoAction,
    VideoView,
    decode_value,
)
from streams.history import DEFAULT, HistoryConfig, engages, event_digest

VIEW, INTERACTION = 0, 1
#: `first_seen_*` of what neither has a creation time nor appears in an event
NEVER = np.iinfo(np.int64).max

_TOPICS = (*topics.CATALOG_TOPICS, *topics.EVENT_TOPICS)
_VIDEO_ACTIONS: tuple[VideoAction, ...] = get_args(VideoAction)
_COMMENT_ACTIONS: tuple[CommentAction, ...] = get_args(CommentAction)


class LogError(ValueError):
    """A log that can't be read: a folder without events, or a line that breaks the contract (named in the message)."""


@dataclass(frozen=True)
class Log:
    """Catalog and events. n_v videos, n_c comments, n_u users (those with events), n_e events.

    Events are in the state's order: by (ts_ms, digest of the event id). An event id that a user's log holds twice for
    one kind counts once, as in the state. What appears in events only has an empty text and no creation time.
    """

    config: HistoryConfig  #: decided `engaged`

    video_ids: list[str]
    video_titles: list[str]  #: title and tags, "" unknown
    video_created: np.ndarray  #: int64 [n_v], Unix ms, -1 unknown
    first_seen_video: np.ndarray  #: int64 [n_v], the earlier of creation and first appearance in an event, else NEVER
    video_index: dict[str, int]

    comment_ids: list[str]
    comment_texts: list[str]
    comment_video: np.ndarray  #: int32 [n_c]
    comment_author: np.ndarray  #: int32 [n_c], -1 unknown or without events
    comment_created: np.ndarray  #: int64 [n_c], Unix ms, -1 unknown
    comment_likes: np.ndarray  #: int64 [n_c], -1 unknown
    first_seen_comment: np.ndarray  #: int64 [n_c]
    comment_index: dict[str, int]

    user_ids: list[str]
    user_index: dict[str, int]

    event_ids: list[str]
    digest: np.ndarray  #: uint64 [n_e]
    kind: np.ndarray  #: int8 [n_e], VIEW or INTERACTION
    user: np.ndarray  #: int32 [n_e]
    video: np.ndarray  #: int32 [n_e]
    comment: np.ndarray  #: int32 [n_e], -1 for views
    ts_ms: np.ndarray  #: int64 [n_e]
    engaged: np.ndarray  #: bool [n_e], enters its history
    hate: np.ndarray  #: bool [n_e]
    watch_ms: np.ndarray  #: int64 [n_e], 0 for interactions
    duration_ms: np.ndarray  #: int64 [n_e], -1 unknown
    actions: np.ndarray  #: uint8 [n_e], bit i: the i-th of VideoAction (of CommentAction for interactions)

    @property
    def events(self) -> int:
        """How many events there are."""
        return len(self.event_ids)

    @staticmethod
    def read(
        directory: str | Path,
        config: HistoryConfig = DEFAULT,
        *,
        since: str = "",
        until: Mapping[tuple[str, int], int] | None = None,
    ) -> Log:
        """Read a folder of JSON lines, or an archive.

        Args:
            since, until: of an archive, the first date of events (`2025-01-31`), and per partition the offset to stop
                before, so that the same can be read again while the archive grows.

        Raises:
            LogError: no such folder, no events in it, or a line that is no valid record of its topic.
        """
        if is_archive(directory):
            streams = {topic: records(directory, topic, since=since, until=until) for topic in _TOPICS}
        else:
            folder = Path(directory)
            if not folder.is_dir():
                raise LogError(f"{folder} is no folder; `lsvcr convert` writes one")
            streams = {topic: _records(folder, topic) for topic in _TOPICS}
        try:
            log = Log.build(
                chain.from_iterable(streams[topic] for topic in topics.CATALOG_TOPICS),
                chain.from_iterable(streams[topic] for topic in topics.EVENT_TOPICS),
                config,
            )
        except (ArchiveError, StoreError) as error:
            raise LogError(str(error)) from error
        if not log.events:
            names = " or ".join(f"{topic}.jsonl" for topic in topics.EVENT_TOPICS)
            raise LogError(f"{directory} holds no events; expected {names} with at least one line, or an archive")
        return log

    @staticmethod
    def build(catalog: Iterator[Record], events: Iterator[Record], config: HistoryConfig = DEFAULT) -> Log:
        """The log of records in memory. Of a catalog entry that comes twice, the last one counts."""
        videos: dict[str, Video] = {}
        comments: dict[str, Comment] = {}
        for entry in catalog:
            if isinstance(entry, Video):
                videos[entry.video_id] = entry
            elif isinstance(entry, Comment):
                comments[entry.comment_id] = entry
        columns = _Events(config)
        for event in events:
            if isinstance(event, VideoView | CommentInteraction):
                columns.add(event, videos, comments)
        for comment in comments.values():
            if comment.video_id not in videos:
                videos[comment.video_id] = Video(comment.video_id, "")
        return columns.log(videos, comments)

    def event(self, index: int) -> VideoView | CommentInteraction:
        """The event of a row, as it was read (but for a dwell time, which the log does not keep)."""
        user, video = self.user_ids[self.user[index]], self.video_ids[self.video[index]]
        ts_ms, bits = int(self.ts_ms[index]), int(self.actions[index])
        if self.kind[index] == INTERACTION:
            action = _COMMENT_ACTIONS[bits.bit_length() - 1]
            comment = self.comment_ids[self.comment[index]]
            return CommentInteraction(self.event_ids[index], user, video, comment, ts_ms, action)
        duration = int(self.duration_ms[index])
        actions = tuple(name for i, name in enumerate(_VIDEO_ACTIONS) if bits >> i & 1)
        return VideoView(
            self.event_ids[index],
            user,
            video,
            ts_ms,
            int(self.watch_ms[index]),
            None if duration < 0 else duration,
            actions or None,
        )

    def comments_by_video(self) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [n_v + 1] starts, int64 [n_c] comments): each video's comments, by first appearance."""
        order = np.lexsort((self.first_seen_comment, self.comment_video)).astype(np.int64)
        return np.searchsorted(self.comment_video[order], np.arange(len(self.video_ids) + 1)), order

    def wrote(self) -> np.ndarray:
        """bool [n_e]: the event is the writing of its comment."""
        return (self.kind == INTERACTION) & (self.actions == 1 << _COMMENT_ACTIONS.index("write"))


class _Events:
    """Collects events into lists, then makes the columns."""

    def __init__(self, config: HistoryConfig) -> None:
        self.config = config
        self.ids: list[str] = []
        self.names: list[tuple[str, str, str | None]] = []  # user, video, comment
        self.numbers: list[tuple[int, int, bool, bool, int, int, int]] = []
        self.digests: list[int] = []

    def add(
        self, event: VideoView | CommentInteraction, videos: dict[str, Video], comments: dict[str, Comment]
    ) -> None:
        if event.video_id not in videos:
            videos[event.video_id] = Video(event.video_id, "")
        engaged = engages(event, self.config)
        if isinstance(event, VideoView):
            bits = sum(1 << _VIDEO_ACTIONS.index(action) for action in set(event.actions or ()))
            hate = "hate" in (event.actions or ())
            duration = -1 if event.duration_ms is None else event.duration_ms
            self.names.append((event.user_id, event.video_id, None))
            self.numbers.append((VIEW, event.ts_ms, engaged, hate, event.watch_ms, duration, bits))
        else:
            if event.comment_id not in comments:
                comments[event.comment_id] = Comment(event.comment_id, event.video_id, "")
            bits = 1 << _COMMENT_ACTIONS.index(event.action)
            self.names.append((event.user_id, event.video_id, event.comment_id))
            self.numbers.append((INTERACTION, event.ts_ms, engaged, False, 0, -1, bits))
        self.ids.append(event.event_id)
        self.digests.append(event_digest(event.event_id))

    def log(self, videos: dict[str, Video], comments: dict[str, Comment]) -> Log:
        video_index = {name: i for i, name in enumerate(videos)}
        comment_index = {name: i for i, name in enumerate(comments)}
        user_index: dict[str, int] = {}
        for name, _, _ in self.names:
            user_index.setdefault(name, len(user_index))
        count = len(self.ids)
        user = np.fromiter((user_index[name] for name, _, _ in self.names), np.int32, count)
        video = np.fromiter((video_index[name] for _, name, _ in self.names), np.int32, count)
        comment = np.fromiter((-1 if c is None else comment_index[c] for _, _, c in self.names), np.int32, count)
        numbers = np.array(self.numbers, np.int64).reshape(count, 7)
        kind, ts_ms, digest = numbers[:, 0], numbers[:, 1], np.array(self.digests, np.uint64)

        order = np.lexsort((digest, ts_ms))
        keys = np.stack((kind, user, digest.view(np.int64)), axis=1)[order]
        _, first = np.unique(keys, axis=0, return_index=True)
        order = order[np.sort(first)]
        kind, ts_ms, digest = kind[order].astype(np.int8), ts_ms[order], digest[order]
        user, video, comment, numbers = user[order], video[order], comment[order], numbers[order]

        video_created = _times(entry.created_ms for entry in videos.values())
        comment_created = _times(entry.created_ms for entry in comments.values())
        commented = comment >= 0
        return Log(
            config=self.config,
            video_ids=list(videos),
            video_titles=[entry.text for entry in videos.values()],
            video_created=video_created,
            first_seen_video=_first_seen(video_created, video, ts_ms),
            video_index=video_index,
            comment_ids=list(comments),
            comment_texts=[entry.text for entry in comments.values()],
            comment_video=np.array([video_index[entry.video_id] for entry in comments.values()], np.int32),
            comment_author=np.array([user_index.get(entry.user_id or "", -1) for entry in comments.values()], np.int32),
            comment_created=comment_created,
            comment_likes=_times(entry.like_count for entry in comments.values()),
            first_seen_comment=_first_seen(comment_created, comment[commented], ts_ms[commented]),
            comment_index=comment_index,
            user_ids=list(user_index),
            user_index=user_index,
            event_ids=[self.ids[i] for i in order],
            digest=digest,
            kind=kind,
            user=user,
            video=video,
            comment=comment,
            ts_ms=ts_ms,
            engaged=numbers[:, 2].astype(bool),
            hate=numbers[:, 3].astype(bool),
            watch_ms=numbers[:, 4].copy(),
            duration_ms=numbers[:, 5].copy(),
            actions=numbers[:, 6].astype(np.uint8),
        )


def _times(values: Iterator[int | None]) -> np.ndarray:
    return np.array([-1 if value is None else value for value in values], np.int64)


def _first_seen(created: np.ndarray, items: np.ndarray, ts_ms: np.ndarray) -> np.ndarray:
    first = np.where(created >= 0, created, NEVER)
    np.minimum.at(first, items, ts_ms)
    return first


def _records(folder: Path, topic: str) -> Iterator[Record]:
    """The checked records of a topic's file; nothing if there is no such file."""
    now_ms = int(time.time() * 1000)
    for path in (folder / f"{topic}.jsonl", folder / f"{topic}.jsonl.gz"):
        if not path.exists():
            continue
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line := line.strip():
                    try:
                        yield decode_value(topic, line, now_ms=now_ms)
                    except EventError as error:
                        raise LogError(f"{path}, line {number}: {error}") from None
        return
