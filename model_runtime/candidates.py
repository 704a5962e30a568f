"""What may be recommended: the videos of a bundle that are alive, less what a user must not get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from model_runtime.bundle import Bundle
from model_runtime.comments import Comments
from model_runtime.ids import video_digest
from model_runtime.index import Index


class Candidates:
    """Live flags of a bundle's videos and comments. Everything is alive at first.

    One thread may change flags while another scores: flags are single numbers, and `penalties` hands out a copy.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.video_ids = bundle.video_ids
        self.video_index = Index.of(self.video_ids)
        self.comments = Comments(bundle)
        self._alive = np.ones(len(self.video_ids), dtype=bool)
        self._changes = 0
        self._penalties: tuple[int, NDArray[np.float32] | None] = (0, None)
        digests = np.fromiter(map(video_digest, self.video_ids), dtype=np.uint32, count=len(self.video_ids))
        self._by_digest = np.argsort(digests, kind="stable")
        self._digests = digests[self._by_digest]

    def set_video(self, video_id: str, alive: bool) -> bool:
        """Mark a video; False if the bundle doesn't know it."""
        at = self.video_index[video_id]
        if at < 0:
            return False
        if self._alive[at] != alive:
            self._alive[at] = alive
            self._changes += 1
        return True

    def set_comment(self, comment_id: str, alive: bool) -> bool:
        """Mark a comment; False if the bundle doesn't know it."""
        return self.comments.set(comment_id, alive)

    def keep_videos(self, video_ids: Iterable[str]) -> int:
        """Exactly these are alive from now on, at once; returns how many of them the bundle doesn't know."""
        self._alive, unknown = self.video_index.mask(video_ids)
        self._changes += 1
        return unknown

    def keep_comments(self, comment_ids: Iterable[str]) -> int:
        """Exactly these are alive from now on, at once; returns how many of them the bundle doesn't know."""
        return self.comments.keep(comment_ids)

    def set_all_videos(self, alive: bool) -> None:
        self._alive = np.full(len(self.video_ids), alive)
        self._changes += 1

    def set_all_comments(self, alive: bool) -> None:
        self.comments.set_all(alive)

    def alive_videos(self) -> int:
        """How many videos are alive."""
        return int(np.count_nonzero(self._alive))

    def alive_comments(self) -> int:
        """How many comments are alive."""
        return self.comments.alive_count()

    def comments_of(self, video_id: str) -> NDArray[np.int32]:
        """Indices of the alive comments under a video, ascending; none under an unknown or a removed video."""
        at = self.video_index[video_id]
        if at < 0 or not self._alive[at]:
            return np.empty(0, dtype=np.int32)
        return self.comments.of(at)

    def penalties(self) -> NDArray[np.float32] | None:
        """What to add to the scores of the videos, [n_v]: 0 if alive, -inf if not. None if all are alive.

        A copy, made anew only after a change: later changes don't reach into a batch that is being scored.
        """
        changes = self._changes  # read before the flags: a change in between makes the copy stale, never wrong
        if self._penalties[0] != changes:
            alive = self._alive.copy()
            penalties = None if alive.all() else np.where(alive, np.float32(0), np.float32(-np.inf))
            self._penalties = (changes, penalties)
        return self._penalties[1]

    def barred(self, digests: Sequence[Sequence[int]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The videos that each user's digests stand for, as parallel arrays of rows and video indices.

        All videos of a digest are barred when several share it. Digests of videos not in the bundle are skipped.
        """
        sizes = np.fromiter(map(len, digests), dtype=np.intp, count=len(digests))
        wanted = np.fromiter(chain.from_iterable(digests), dtype=np.uint32, count=int(sizes.sum()))
        left = np.searchsorted(self._digests, wanted, side="left")
        counts = np.searchsorted(self._digests, wanted, side="right") - left
        rows = np.repeat(np.repeat(np.arange(len(digests)), sizes), counts)
        # left[i], left[i] + 1, ..., left[i] + counts[i] - 1 for each i, without a loop
        ends = np.cumsum(counts)
        at = np.arange(len(rows)) + np.repeat(left - ends + counts, counts)
        return rows, self._by_digest[at]
