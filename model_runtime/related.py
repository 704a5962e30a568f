"""What people watched beside a user's last videos: neighbours counted in training, at most K of each video.

An SR of d dimensions knows who watched what only as far as d dimensions hold it; a list of neighbours holds the rest.
They are one of the sources of live signals, and one of the features of `f`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_runtime.manifest import BundleError

#: so many of the last videos of a history have a say
POSITIONS = 16
#: positions after which a video's say is halved
HALF_LIFE = 2.0


@dataclass(frozen=True)
class Neighbours:
    """Rows of videos that go together with each, [n_v, K] (-1: no more), and by how much, [n_v, K], at least 0."""

    rows: NDArray[np.int32]
    weights: NDArray[np.float32]

    def check(self, where: Path) -> None:
        """Raises BundleError if these are no neighbours of n_v videos."""
        n = len(self.rows)
        if self.rows.shape != self.weights.shape or self.rows.ndim != 2:
            raise BundleError(
                f"{where}: neighbours {list(self.rows.shape)}, weights {list(self.weights.shape)}; export again"
            )
        if self.rows.size and (self.rows.min() < -1 or self.rows.max() >= n):
            raise BundleError(f"{where}: a neighbour is not in 0..{n - 1}; export the model again")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise BundleError(f"{where}: a neighbour's weight is negative or not finite; export the model again")

    def of(self, history: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The videos that go together with a history's last ones: rows, ascending, and by how much.

        Args:
            history: rows, oldest first; -1 where a video is not known.
        """
        last = history[-POSITIONS:]
        known = last >= 0
        say = np.exp2(-np.arange(len(last) - 1, -1, -1) / HALF_LIFE)[known]
        rows = self.rows[last[known]].ravel()
        weights = (self.weights[last[known]] * say[:, None]).ravel()
        there = rows >= 0
        found, at = np.unique(rows[there], return_inverse=True)
        return found.astype(np.intp), np.bincount(at, weights[there], len(found)).astype(np.float32)


def looked_up(rows: NDArray[np.integer], found: NDArray[np.intp], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of some rows in what `Neighbours.of` found; 0 where it has none."""
    if not len(found):
        return np.zeros(len(rows), np.float32)
    at = np.minimum(np.searchsorted(found, rows), len(found) - 1)
    return np.where(found[at] == rows, values[at], np.float32(0))
