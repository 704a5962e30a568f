"""What is alive right now: exponentially decayed counts of what everyone does, in event time (`lsvcr.md` §7).

The count of an item at a moment is the sum of 2^(-age / half-life) over its events. It is kept as the sum of
2^((ts - landmark) / half-life), which does not change while time passes (forward decay: Cormode et al., ICDE 2009), so:

* order-tolerant: a sum does not care in which order its terms arrive;
* additive: the counts of several partitions' users add up to those of all users;
* bounded: what nobody touches fades to nothing, by the passing of time alone.

No clock is read here: `now_ms` is the caller's, and the same log gives the same figures in the worker and the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_HOUR_MS = 3_600_000.0
#: half-lives that workers count with, whatever they serve: another model then finds its counts made
HALF_LIVES_MS = tuple(hours * _HOUR_MS for hours in (1, 6, 24, 3 * 24, 7 * 24, 30 * 24, 180 * 24))
#: an item whose every count is below this has faded: it is as if nobody had ever touched it
FADED = 0.01
#: a landmark moves up once an event is so many half-lives newer; sums then stay far from float64's largest, 2^1024
_REACH = 256.0

Rows = NDArray[np.integer]


class DecayedCounts:
    """Decayed counts of n items, each with K half-lives: float64 [K, n], and a landmark per half-life.

    One thread may write while others read: a reader takes sums and landmarks that belong together.
    """

    def __init__(self, half_lives_ms: Sequence[float], items: int = 0) -> None:
        """All counts are 0.

        Raises:
            ValueError: no half-life, or one that is not positive.
        """
        if not half_lives_ms or min(half_lives_ms) <= 0:
            raise ValueError(f"half-lives must be positive, at least one: {list(half_lives_ms)}")
        self.half_lives_ms = np.array(half_lives_ms, np.float64)  # [K]
        # Sums [K, n] and landmarks [K], replaced together: sums are read only with the landmarks they are kept by.
        self._held = np.zeros((len(half_lives_ms), items)), np.zeros(len(half_lives_ms))

    def __len__(self) -> int:
        return self._held[0].shape[1]

    def grow(self, items: int) -> None:
        """Make room for `items` items in all; the new ones have no events yet."""
        sums, landmarks_ms = self._held
        if items > len(self):
            self._held = np.pad(sums, ((0, 0), (0, items - len(self)))), landmarks_ms

    def add(self, rows: Rows | Sequence[int], ts_ms: Rows | Sequence[int]) -> None:
        """Count events: item `rows[i]` at `ts_ms[i]`. A row may come several times, in any order."""
        times = np.asarray(ts_ms, np.float64)
        if not len(times):
            return
        self._reach(times.max())
        sums, landmarks_ms = self._held
        at = np.asarray(rows, np.intp)
        # All half-lives in one go: a worker does this for a few events at a time.
        worth = np.exp2((times - landmarks_ms[:, None]) / self.half_lives_ms[:, None])  # [K, events]
        assert sums.flags.c_contiguous  # or what is added would be lost in a copy
        every = at + (np.arange(len(sums)) * sums.shape[1])[:, None]
        np.add.at(sums.reshape(-1), every.ravel(), worth.ravel())

    def add_one(self, row: int, ts_ms: int) -> None:
        """As `add`, for one event: what a worker does at each."""
        self._reach(ts_ms)
        sums, landmarks_ms = self._held
        sums[:, row] += np.exp2((ts_ms - landmarks_ms) / self.half_lives_ms)

    def put(self, rows: Rows | Sequence[int], counts: NDArray[np.floating], at_ms: int) -> None:
        """Add counts [len(rows), K] as they were at `at_ms`: another partition's share. Rows must be distinct."""
        self._reach(at_ms)
        sums, landmarks_ms = self._held
        sums[:, rows] += np.asarray(counts, np.float64).T * self._worth(at_ms, landmarks_ms)

    def replace(self, rows: Rows | Sequence[int], counts: NDArray[np.floating], at_ms: int) -> None:
        """As `put`, instead of what these rows held."""
        self._reach(at_ms)
        sums, landmarks_ms = self._held
        sums[:, rows] = np.asarray(counts, np.float64).T * self._worth(at_ms, landmarks_ms)

    def merge(self, other: DecayedCounts) -> None:
        """Add another's counts of the same items.

        Raises:
            ValueError: it counts with other half-lives, or other items.
        """
        if not np.array_equal(self.half_lives_ms, other.half_lives_ms) or len(self) != len(other):
            raise ValueError("only counts of the same items with the same half-lives can be added up")
        theirs, landmarks_ms = other._held
        ahead = np.maximum(self._held[1], landmarks_ms)
        self._shift(ahead)
        self._held[0][...] += theirs * self._worth(landmarks_ms, ahead)

    def at(self, now_ms: int, rows: Rows | Sequence[int] | slice = slice(None)) -> NDArray[np.float64]:
        """The counts at a moment, [len(rows), K]. What happened after it counts as if it happened just then or more.

        `now_ms` should therefore be no earlier than the newest event: the time of the log's end, or of the stream.
        """
        sums, landmarks_ms = self._held
        scale = np.exp2(np.clip((landmarks_ms - now_ms) / self.half_lives_ms, -1022.0, 700.0))
        return np.asarray(sums[:, rows].T * scale)

    def order(self, k: int = 0) -> NDArray[np.float64]:
        """[n], numbers in the order of the counts with the k-th half-life, which time doesn't change."""
        return self._held[0][k]

    def alive(self, now_ms: int) -> NDArray[np.intp]:
        """The items that have not faded, ascending."""
        return np.flatnonzero((self.at(now_ms) >= FADED).any(axis=1))

    def forget(self, rows: Rows | Sequence[int]) -> None:
        """Set the counts of some items to 0."""
        self._held[0][:, rows] = 0.0

    def _worth(self, at_ms: float | NDArray[np.float64], landmarks_ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """What an event at `at_ms` adds to the sums, [K, 1]."""
        return np.asarray(np.exp2((at_ms - landmarks_ms) / self.half_lives_ms)[:, None])

    def _reach(self, ts_ms: float) -> None:
        landmarks_ms = self._held[1]
        far = (ts_ms - landmarks_ms) / self.half_lives_ms > _REACH
        if far.any():
            self._shift(np.where(far, float(ts_ms), landmarks_ms))

    def _shift(self, ahead_ms: NDArray[np.float64]) -> None:
        """Move landmarks up. Sums too old to matter become 0 by it."""
        sums, landmarks_ms = self._held
        self._held = sums * self._worth(landmarks_ms, ahead_ms), ahead_ms
