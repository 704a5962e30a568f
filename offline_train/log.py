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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import get_args

import numpy as np

from offline_train.archived import ArchiveError, StoreError, is_archive, records
from offline_train.event_rows import EventRows
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
from streams.history import DEFAULT, HistoryConfig, engages

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

    event_ids: Sequence[str]
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
        folder: str | Path | None = None,
        since: str = "",
        until: Mapping[tuple[str, int], int] | None = None,
    ) -> Log:
        """Read a folder of JSON lines, or an archive.

        Args:
            folder: where the columns of the events are kept, as memory-mapped files, for a log that is larger than
                memory; they must stay as long as the log is used. Without it, they are in memory.
            since, until: of an archive, the first date of events (`2025-01-31`), and per partition the offset to stop
                before, so that the same can be read again while the archive grows.

        Raises:
            LogError: no such folder, no events in it, or a line that is no valid record of its topic.
        """
        if is_archive(directory):
            streams = {topic: records(directory, topic, since=since, until=until) for topic in _TOPICS}
        else:
            if not Path(directory).is_dir():
                raise LogError(f"{directory} is no folder; `lsvcr convert` writes one")
            streams = {topic: _records(Path(directory), topic) for topic in _TOPICS}
        try:
            log = Log.build(
                chain.from_iterable(streams[topic] for topic in topics.CATALOG_TOPICS),
                chain.from_iterable(streams[topic] for topic in topics.EVENT_TOPICS),
                config,
                folder,
            )
        except (ArchiveError, StoreError) as error:
            raise LogError(str(error)) from error
        if not log.events:
            names = " or ".join(f"{topic}.jsonl" for topic in topics.EVENT_TOPICS)
            raise LogError(f"{directory} holds no events; expected {names} with at least one line, or an archive")
        return log

    @staticmethod
    def build(
        catalog: Iterable[Record],
        events: Iterable[Record],
        config: HistoryConfig = DEFAULT,
        folder: str | Path | None = None,
    ) -> Log:
        """The log of some records. Of a catalog entry that comes twice, the last one counts. `folder` as in `read`."""
        videos: dict[str, Video] = {}
        comments: dict[str, Comment] = {}
        for entry in catalog:
            if isinstance(entry, Video):
                videos[entry.video_id] = entry
            elif isinstance(entry, Comment):
                comments[entry.comment_id] = entry
        video_index = {name: i for i, name in enumerate(videos)}
        comment_index = {name: i for i, name in enumerate(comments)}
        user_index: dict[str, int] = {}
        rows = EventRows(folder)
        for event in events:
            video = video_index.setdefault(event.video_id, len(video_index))
            if video == len(videos):
                videos[event.video_id] = Video(event.video_id, "")
            if isinstance(event, VideoView):
                user = user_index.setdefault(event.user_id, len(user_index))
                actions = event.actions or ()
                bits = 0
                for action in actions:
                    bits |= 1 << _VIDEO_ACTIONS.index(action)
                duration = -1 if event.duration_ms is None else event.duration_ms
                engaged, hate = engages(event, config), "hate" in actions
                rows.add(
                    event.event_id, VIEW, user, video, -1, event.ts_ms, engaged, hate, event.watch_ms, duration, bits
                )
            elif isinstance(event, CommentInteraction):
                user = user_index.setdefault(event.user_id, len(user_index))
                comment = comment_index.setdefault(event.comment_id, len(comment_index))
                if comment == len(comments):
                    comments[event.comment_id] = Comment(event.comment_id, event.video_id, "")
                bits = 1 << _COMMENT_ACTIONS.index(event.action)
                engaged = engages(event, config)
                rows.add(event.event_id, INTERACTION, user, video, comment, event.ts_ms, engaged, False, 0, -1, bits)
        for entry in comments.values():
            if entry.video_id not in videos:
                video_index[entry.video_id] = len(videos)
                videos[entry.video_id] = Video(entry.video_id, "")

        columns, event_ids = rows.sorted()
        video_created = _times(entry.created_ms for entry in videos.values())
        comment_created = _times(entry.created_ms for entry in comments.values())
        commented = columns["comment"] >= 0
        return Log(
            config=config,
            video_ids=list(videos),
            video_titles=[entry.text for entry in videos.values()],
            video_created=video_created,
            first_seen_video=_first_seen(video_created, columns["video"], columns["ts_ms"]),
            video_index=video_index,
            comment_ids=list(comments),
            comment_texts=[entry.text for entry in comments.values()],
            comment_video=np.array([video_index[entry.video_id] for entry in comments.values()], np.int32),
            comment_author=np.array([user_index.get(entry.user_id or "", -1) for entry in comments.values()], np.int32),
            comment_created=comment_created,
            comment_likes=_times(entry.like_count for entry in comments.values()),
            first_seen_comment=_first_seen(comment_created, columns["comment"][commented], columns["ts_ms"][commented]),
            comment_index=comment_index,
            user_ids=list(user_index),
            user_index=user_index,
            event_ids=event_ids,
            **columns,
        )

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
