"""What simulated users truly want, for evaluation: no model can rank better than this on average.

    oracle = Oracle.load("log/oracle.npz")
    videos, scores = oracle.video_scores("u17", ts_ms)

`oracle.npz` holds `meta` (int64: seed, topics, start_ms) and every column of the simulation's `Users`, `Videos` and
`Comments` (see `population`) under the names `users.taste`, `videos.topic`, `comments.tone`, and so on. Row i is the
user `u<i>`, the video `v<i>`, the comment `c<i>`; times in it are ms since `start_ms`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from offline_train.sources import preferences
from offline_train.sources.population import DAY_MS, Columns, CommentIndex, Comments, Users, Videos
from offline_train.sources.preferences import SHOWN, SLOT_MS


@dataclass
class Oracle:
    """The truth of one simulation. Times given to it are Unix ms."""

    seed: int
    topics: int
    start_ms: int
    users: Users
    videos: Videos
    comments: Comments

    def interest(self, user_id: str, ts_ms: int) -> np.ndarray:
        """The user's interest in each topic at a time; sums to 1. float32 [topics]."""
        share: np.ndarray = preferences.interest(self.users, _row(user_id, "u"), (ts_ms - self.start_ms) / DAY_MS)[0]
        return share

    def video_scores(self, user_id: str, ts_ms: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the videos published by `ts_ms`, and the log chance of each to be the next one engaged with.

        Up to a constant per user and time. What the user has seen already is among them; leaving it out is up to the
        caller. Row i is the video `v<i>`.
        """
        slot = (ts_ms - self.start_ms) // SLOT_MS
        shown = preferences.exposure(self.videos, slot)
        rows = np.flatnonzero(shown)
        utility = self._video_utility(user_id, slot, rows)
        shown = shown[rows]
        # One of SHOWN drawn by `shown` is chosen by utility; the other SHOWN - 1 count with their mean appeal.
        appeal = np.exp(utility.astype(np.float64))
        mean = (shown * appeal).sum() / shown.sum()
        chosen = shown * appeal / (appeal + (SHOWN - 1) * mean)
        return rows, np.log(chosen) + np.log(preferences.engagement(utility))

    def preference(self, user_id: str, ts_ms: int) -> tuple[np.ndarray, np.ndarray]:
        """As `video_scores`, but what the user would like most, however little the platform shows it."""
        slot = (ts_ms - self.start_ms) // SLOT_MS
        rows = np.flatnonzero(preferences.exposure(self.videos, slot))
        return rows, self._video_utility(user_id, slot, rows)

    def comment_scores(self, user_id: str, video_id: str, ts_ms: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the comments under a video written before `ts_ms`, and the log chance of each to be liked next.

        Up to a constant. Row i is the comment `c<i>`.
        """
        user, video = _row(user_id, "u"), _row(video_id, "v")
        start, count = self._index.readable(video, np.array([ts_ms - self.start_ms]))
        rows = np.sort(self._index.order[start[0] : start[0] + count[0]])
        share = preferences.interest(self.users, user, (ts_ms - self.start_ms) // SLOT_MS * SLOT_MS / DAY_MS)
        utility = preferences.comment_utility(share, self.users.tone[user], self.comments, rows[None])[0]
        return rows, utility + np.log(preferences.answer(utility))

    def save(self, path: Path) -> None:
        """Write the file, under a temporary name until it is complete. Same oracle, same bytes."""
        arrays = {"meta": np.array([self.seed, self.topics, self.start_ms], np.int64)}
        for name in ("users", "videos", "comments"):
            columns = getattr(self, name)
            arrays |= {f"{name}.{column.name}": getattr(columns, column.name) for column in fields(columns)}
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    @staticmethod
    def load(path: str | Path) -> Oracle:
        """Read an `oracle.npz`.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is no oracle.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                seed, topics, start_ms = arrays["meta"].tolist()

                def columns(kind: type[Columns], name: str) -> Columns:
                    return kind(*(arrays[f"{name}.{column.name}"] for column in fields(kind)))

                parts = columns(Users, "users"), columns(Videos, "videos"), columns(Comments, "comments")
        except KeyError as error:
            raise ValueError(f"{path} is no oracle of a simulation: {error}") from None
        return Oracle(seed, topics, start_ms, *parts)

    @cached_property
    def _index(self) -> CommentIndex:
        return CommentIndex(self.comments)

    def _video_utility(self, user_id: str, slot: int, rows: np.ndarray) -> np.ndarray:
        user = _row(user_id, "u")
        share = preferences.interest(self.users, user, slot * SLOT_MS / DAY_MS)
        moods = preferences.mood(self.seed, user, slot, share)
        utility: np.ndarray = preferences.video_utility(share, moods, self.users.style[user], self.videos, rows[None])[
            0
        ]
        return utility


def _row(name: str, letter: str) -> np.ndarray:
    if name[:1] != letter or not name[1:].isdecimal():
        raise ValueError(f"{name!r} is not an id of a simulation; expected {letter} and a number")
    return np.array([int(name[1:])])
