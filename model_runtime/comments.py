"""The comments under each video, and which of them are alive."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model_runtime.bundle import Bundle
from model_runtime.index import Index


class Comments:
    """Comments by video in compressed sparse rows: two arrays, no Python object per list.

    One thread may change what is alive while another reads: a flag is one byte.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.ids = bundle.comment_ids
        self.index = Index.of(self.ids)
        n_v = bundle.manifest.counts.videos
        # stable, so that the comments of a video stay in the order of the bundle
        self._order = np.argsort(bundle.comment_video, kind="stable").astype(np.int32)
        counts = np.bincount(bundle.comment_video, minlength=n_v)
        self._offsets = np.concatenate(([0], np.cumsum(counts)))
        self._alive = np.ones(len(self.ids), dtype=bool)

    def set(self, comment_id: str, alive: bool) -> bool:
        """Mark a comment; False if the bundle doesn't know it."""
        at = self.index[comment_id]
        if at < 0:
            return False
        self._alive[at] = alive
        return True

    def keep(self, comment_ids: Iterable[str]) -> int:
        """Exactly these are alive from now on; returns how many of them the bundle doesn't know."""
        self._alive, unknown = self.index.mask(comment_ids)
        return unknown

    def set_all(self, alive: bool) -> None:
        self._alive = np.full(len(self.ids), alive)

    def alive_count(self) -> int:
        return int(np.count_nonzero(self._alive))

    def of(self, video: int) -> NDArray[np.int32]:
        """Indices of the alive comments under the video at index `video`, ascending."""
        own = self._order[self._offsets[video] : self._offsets[video + 1]]
        return own[self._alive[own]]
