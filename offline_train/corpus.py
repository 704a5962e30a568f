"""Training samples from a log, with the very windows that `streams.history` holds in serving.

One sample per engagement: a user, the moment just before the event, and the event as target. Nothing is copied per
sample: its windows are ranges of the per-user sequences, which are flat arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np

from offline_train.event_rows import Kept
from offline_train.log import INTERACTION, VIEW, Log
from streams.history import DEFAULT, EMPTY, HistoryConfig, UserState, apply

#: below this many distinct videos per user on average, everything seen is remembered (see `choose_seen`)
AFFORDABLE_SEEN = DEFAULT.seen
MOST_SEEN = 2048


@dataclass(frozen=True)
class Samples:
    """n samples, as columns of length n, in the order of their events (by ts_ms, then digest).

    Ranges are half open. `video_*` index `Corpus.videos`; `comment_*` index `Corpus.comments` and
    `Corpus.comment_videos`; `seen_*` index `Corpus.seen`: the distinct videos that the user viewed or interacted with
    before the event, in the order of first time.
    """

    kind: np.ndarray  #: int8, VIEW: the target is `target_video`; INTERACTION: it is `target_comment` under that video
    user: np.ndarray  #: int32
    event_index: np.ndarray  #: int64, row of the log
    ts_ms: np.ndarray  #: int64
    target_video: np.ndarray  #: int32
    target_comment: np.ndarray  #: int32, -1 for VIEW
    video_start: np.ndarray  #: int64
    video_end: np.ndarray
    comment_start: np.ndarray
    comment_end: np.ndarray
    seen_start: np.ndarray
    seen_end: np.ndarray
    target_seen: np.ndarray  #: bool, the target video is among the seen: it would not have been recommended

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: np.ndarray) -> Samples:
        """The samples of some rows (indices or a mask)."""
        return Samples(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Corpus:
    """Per-user sequences (flat, user after user, each oldest first) and the samples over them.

    User u's engaged videos are `videos[video_offsets[u] : video_offsets[u + 1]]`; the others likewise.
    """

    log: Log
    config: HistoryConfig
    video_offsets: np.ndarray  #: int64 [n_u + 1]
    videos: np.ndarray  #: int32
    comment_offsets: np.ndarray  #: int64 [n_u + 1]
    comments: np.ndarray  #: int32
    comment_videos: np.ndarray  #: int32, the video of each of `comments`, as the event says
    seen_offsets: np.ndarray  #: int64 [n_u + 1]
    seen: np.ndarray  #: int32
    samples: Samples

    @staticmethod
    def read(directory: str | Path, folder: str | Path | None = None) -> Corpus:
        """The corpus of a log that is trained on: as many seen videos are remembered as `choose_seen` says.

        Args:
            folder: where the columns of both are kept, as memory-mapped files, for a log that is larger than memory.

        Raises:
            LogError: the log can't be read.
        """
        log = Log.read(directory, folder=folder)
        config = msgspec.structs.replace(log.config, seen=choose_seen(log))
        return Corpus.build(log, config, None if folder is None else Path(folder) / "corpus")

    @staticmethod
    def build(log: Log, config: HistoryConfig | None = None, folder: str | Path | None = None) -> Corpus:
        """The corpus of a log. `config` defaults to the log's own, and must agree with it on what engages.

        Args:
            folder: where its arrays are kept, as memory-mapped files, for a log that is larger than memory (as in
                `Log.read`); without it, they are in memory.

        Raises:
            ValueError: `config` counts other events as engagements than the log was read with.
        """
        config = config or log.config
        for name in ("long_view_ms", "video_actions", "comment_actions"):
            if getattr(config, name) != getattr(log.config, name):
                raise ValueError(f"the log was read with another {name}; read it again with this history configuration")

        keep = Kept(folder)
        order = np.argsort(log.user, kind="stable")  # user after user, each in the state's order
        user = log.user[order]
        starts = np.searchsorted(user, np.arange(len(log.user_ids) + 1))
        is_video = (log.engaged & (log.kind == VIEW))[order]
        is_comment = (log.engaged & (log.kind == INTERACTION))[order]
        is_new = _first_occurrence(user, log.video[order])
        target = np.flatnonzero(is_video | is_comment)
        target = target[np.argsort(order[target])]
        owner, rows = user[target], order[target]
        del user

        # One after the other, because each needs memory for all events.
        columns: dict[str, np.ndarray] = {}

        def flat(name: str, mask: np.ndarray, windowed: bool) -> tuple[np.ndarray, np.ndarray]:
            """Rows of the log, and where each user's begin; the samples' ranges of them go to `columns`."""
            before = np.concatenate(([0], np.cumsum(mask)))
            offsets = before[starts]
            end = before[target]
            start = _window_start(offsets[owner], end, config) if windowed else offsets[owner]
            columns[f"{name}_start"] = keep(f"{name}_start", start)
            columns[f"{name}_end"] = keep(f"{name}_end", end)
            return order[mask], offsets

        video_rows, video_offsets = flat("video", is_video, True)
        videos = keep("videos", log.video[video_rows])
        del video_rows
        comment_rows, comment_offsets = flat("comment", is_comment, True)
        comments = keep("comments", log.comment[comment_rows])
        comment_videos = keep("comment_videos", log.video[comment_rows])
        del comment_rows
        seen_rows, seen_offsets = flat("seen", is_new, False)
        seen = keep("seen", log.video[seen_rows])
        del seen_rows
        samples = Samples(
            kind=keep("kind", log.kind[rows]),
            user=keep("user", owner),
            event_index=keep("event_index", rows),
            ts_ms=keep("ts_ms", log.ts_ms[rows]),
            target_video=keep("target_video", log.video[rows]),
            target_comment=keep("target_comment", log.comment[rows]),
            target_seen=keep("target_seen", ~is_new[target]),
            **columns,
        )
        return Corpus(
            log,
            config,
            video_offsets,
            videos,
            comment_offsets,
            comments,
            comment_videos,
            seen_offsets,
            seen,
            samples,
        )

    def seen_before(self, sample: int) -> np.ndarray:
        """int32: every video that the sample's user viewed or interacted with before its event."""
        return self.seen[self.samples.seen_start[sample] : self.samples.seen_end[sample]]

    def seen_pairs(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        """(row of `samples`, video), int64 each: everything that the samples' users had seen, to index a matrix."""
        length = samples.seen_end - samples.seen_start
        row = np.repeat(np.arange(len(samples)), length)
        within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        return row, self.seen[samples.seen_start[row] + within].astype(np.int64)


@dataclass(frozen=True)
class Split:
    """Rows of `Corpus.samples` (int64, ascending) for each part.

    For the temporal split, everything learned or counted may use only what is before `valid_ms`, and the choice of a
    model only what is before `test_ms`. For leave-one-out there is no such point in time: both are NEVER, and the held
    out samples themselves are what must not be used.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    valid_ms: int
    test_ms: int


def temporal_split(corpus: Corpus, test_fraction: float = 0.1, valid_fraction: float = 0.1) -> Split:
    """Two global points in time that leave about these fractions of the samples to test and validation.

    Samples of one millisecond are never torn apart.

    Raises:
        ValueError: too few samples, or all at one time, so that a part would be empty.
    """
    ts_ms = corpus.samples.ts_ms
    count = len(ts_ms)
    if count < 3 or test_fraction <= 0 or valid_fraction <= 0 or test_fraction + valid_fraction >= 1:
        raise ValueError(f"can't split {count} samples into parts of {valid_fraction} and {test_fraction}")
    valid_ms = int(ts_ms[min(count - 2, int(count * (1 - test_fraction - valid_fraction)))])
    test_ms = int(ts_ms[min(count - 1, int(count * (1 - test_fraction)))])
    train, valid, test = ts_ms < valid_ms, (ts_ms >= valid_ms) & (ts_ms < test_ms), ts_ms >= test_ms
    if not (train.any() and valid.any() and test.any()):
        raise ValueError("the samples lie too close in time for a temporal split; use more data or leave-one-out")
    return Split("temporal", np.flatnonzero(train), np.flatnonzero(valid), np.flatnonzero(test), valid_ms, test_ms)


def leave_one_out(corpus: Corpus) -> Split:
    """Each user's last target of each kind for test, the one before for validation (users with at least 3 of it).

    A user's samples after their first held-out event are in no part: their histories would show it.
    """
    samples = corpus.samples
    group = samples.user.astype(np.int64) * 2 + samples.kind
    order = np.argsort(group, kind="stable")
    sorted_group = group[order]
    last = np.searchsorted(sorted_group, sorted_group, side="right") - 1
    size = last + 1 - np.searchsorted(sorted_group, sorted_group)
    from_end = np.empty(len(group), np.int64)
    from_end[order] = np.where(size >= 3, last - np.arange(len(group)), 2)
    held = from_end < 2
    users = int(samples.user.max(initial=-1)) + 1
    horizon = np.full(users, np.iinfo(np.int64).max)
    np.minimum.at(horizon, samples.user[held], samples.event_index[held])
    train = samples.event_index < horizon[samples.user]
    never = int(np.iinfo(np.int64).max)
    return Split(
        "leave-one-out",
        np.flatnonzero(train),
        np.flatnonzero(from_end == 1),
        np.flatnonzero(from_end == 0),
        never,
        never,
    )


def choose_seen(log: Log) -> int:
    """How many seen videos a state should remember.

    Serving bars only the videos that a state remembers. A state is written to the changelog at each batch of a user's
    events, so it should stay within 4 KiB, which 80 seen videos beside two full histories do. Where the average user
    has no more than that, the average state stays within the budget even if nothing is ever forgotten: then the bound
    is the longest list there is, and nobody is recommended what they saw. It grows no further than 2048 (16 KiB).
    """
    order = np.lexsort((log.video, log.user))
    user, video = log.user[order], log.video[order]
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (video[1:] != video[:-1])
    distinct = np.bincount(user[new], minlength=max(1, len(log.user_ids)))
    if distinct.mean() > AFFORDABLE_SEEN:
        return AFFORDABLE_SEEN
    return int(min(MOST_SEEN, max(AFFORDABLE_SEEN, distinct.max())))


def final_states(log: Log, config: HistoryConfig | None = None) -> dict[str, UserState]:
    """Each user's state after the whole log, by the worker's own fold."""
    config = config or log.config
    states: dict[str, UserState] = {}
    for index in range(log.events):
        event = log.event(index)
        states[event.user_id] = apply(states.get(event.user_id, EMPTY), event, config)
    return states


def _window_start(first: np.ndarray, end: np.ndarray, config: HistoryConfig) -> np.ndarray:
    """Where the window of the rows [first, end) begins: the `drop` oldest go each time it would exceed `window`."""
    over = np.maximum(end - first - config.window, 0)
    return first + -(-over // config.drop) * config.drop


def _first_occurrence(user: np.ndarray, video: np.ndarray) -> np.ndarray:
    """bool: no earlier row has the same user and video. Users' rows lie together."""
    by = np.lexsort((video, user))  # stable: of equal rows the earliest comes first
    new = np.ones(len(user), bool)
    new[1:] = (user[by[1:]] != user[by[:-1]]) | (video[by[1:]] != video[by[:-1]])
    found = np.empty(len(user), bool)
    found[by] = new
    return found
