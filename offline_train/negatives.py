"""Negatives of the comment task: other comments of the target's video that were there at the time."""

from __future__ import annotations

import numpy as np

from offline_train.corpus import Samples
from offline_train.log import Log


class CommentNegatives:
    """Draws negatives for comment samples, all at once.

    A comment is a negative only if it was first seen by the time of the sample: otherwise new ones would only ever be
    pushed away. Where the target is being written by the user it is itself new, so there every comment of the training
    period may be drawn.
    """

    def __init__(self, log: Log, cutoff_ms: int) -> None:
        self.cutoff_ms = cutoff_ms
        self.starts, self.order = log.comments_by_video()
        # where a comment is in that order
        self.place = np.empty(len(self.order), np.int64)
        self.place[self.order] = np.arange(len(self.order))
        self.video = log.comment_video
        self.times = log.first_seen_comment[self.order]
        self.by_time = np.argsort(log.first_seen_comment, kind="stable").astype(np.int64)
        self.times_all = log.first_seen_comment[self.by_time]
        self.wrote = log.wrote()
        _, self.text = np.unique(np.array(log.comment_texts, object), return_inverse=True)

    def draw(self, samples: Samples, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [n, count] comments, bool [n, count] usable) for comment samples.

        A video with up to `count` others gives each of them once, and the rest is not usable; one without others gives
        comments of any video, so that the sample teaches something still. What reads like the target is not usable.
        """
        until = np.where(self.wrote[samples.event_index], self.cutoff_ms - 1, samples.ts_ms)
        first = self.starts[samples.target_video]
        last = _count_until(self.times, first, self.starts[samples.target_video + 1], until)
        available = last - first
        place = self.place[samples.target_comment] - first
        inside = (self.video[samples.target_comment] == samples.target_video) & (place < available)
        others = available - inside

        column = np.arange(count)
        drawn = (random.random((len(samples), count)) * np.maximum(others, 1)[:, None]).astype(np.int64)
        drawn = np.where(others[:, None] > count, drawn, column)
        drawn += (drawn >= place[:, None]) & inside[:, None]  # skip the target
        local = self.order[np.minimum(first[:, None] + drawn, len(self.order) - 1)]
        anywhere = np.searchsorted(self.times_all, until, side="right")[:, None]
        anywhere = self.by_time[(random.random((len(samples), count)) * np.maximum(anywhere, 1)).astype(np.int64)]
        negatives = np.where(column < others[:, None], local, anywhere)
        usable = (column < others[:, None]) | (others[:, None] == 0)
        usable &= self.text[negatives] != self.text[samples.target_comment][:, None]
        return negatives, usable


def _count_until(times: np.ndarray, first: np.ndarray, last: np.ndarray, until: np.ndarray) -> np.ndarray:
    """For each range [first, last) of ascending `times`: the place after its last entry not later than `until`.

    A binary search over all ranges at once.
    """
    low, high = first.copy(), last.copy()
    while (low < high).any():
        middle = (low + high) // 2
        open_ = low < high
        earlier = times[np.minimum(middle, len(times) - 1)] <= until
        low = np.where(open_ & earlier, middle + 1, low)
        high = np.where(open_ & ~earlier, middle, high)
    return low
