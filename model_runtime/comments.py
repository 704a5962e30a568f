"""The comments under each video, and which of them are alive."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model_runtime.bundle import Bundle
from model_runtime.index import Index
from model_runtime.names import Names
from model_runtime.rows import Column, Rows, Table, inverse_lengths

#: comments of one video that are scored at most: half of them those with the most likes, the others the newest
MOST = 1024
_MOST_LIKES = 2**31 - 1


class Comments:
    """Comments by thread: the comments of one video. Those of the bundle lie in compressed sparse rows (two arrays, no
    Python object for a comment), those that came later in one growing array for each video that has some.

    A thread's number is the video's row in the bundle, or one from `open_thread` for a video that is not in it.

    One thread may add comments and change what is alive while another reads: a comment is in the tables before its
    thread tells of it, and a flag is one byte.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._ids = bundle.comment_ids
        self.names = Names(self._ids)
        self.index = Index.of(self._ids)
        self.vectors = Table(bundle.comment_vectors)
        self.threads = bundle.manifest.counts.videos
        # stable, so that the comments of a video stay in the order of the bundle
        self._order = np.argsort(bundle.comment_video, kind="stable").astype(np.int32)
        counts = np.bincount(bundle.comment_video, minlength=self.threads)
        self._offsets = np.concatenate(([0], np.cumsum(counts)))
        self._late: dict[int, array[int]] = {}
        self._alive = Column(None, np.bool_)
        self._alive.extend(np.ones(len(self._ids), dtype=bool))
        # zeros are pages that nobody has touched: they cost memory once the catalog tells of likes and times
        self._likes = Column(None, np.int32)
        self._likes.extend(np.zeros(len(self._ids), np.int32))
        self._created_ms = Column(None, np.int64)
        self._created_ms.extend(np.zeros(len(self._ids), np.int64))
        self._inverse_lengths = inverse_lengths(bundle.comment_vectors)  # [n_c]

    def __len__(self) -> int:
        return len(self._alive)

    def open_thread(self) -> int:
        """A new thread, for a video that is not in the bundle."""
        self.threads += 1
        return self.threads - 1

    def add(
        self, comment_id: str, thread: int, vector: NDArray[np.float32], likes: int = 0, created_ms: int = 0
    ) -> None:
        """Add a comment, alive; one of this id is replaced, in the thread that it is in. vector: [d] A t(comment)."""
        row, known = len(self._alive), self.index[comment_id]
        self.vectors.late.extend(vector[None])
        self._likes.extend(np.array([min(likes, _MOST_LIKES)], np.int32))
        self._created_ms.extend(np.array([created_ms], np.int64))
        self.names.append(comment_id)
        if known >= 0:  # before the new row is seen: a reader never finds both
            self._alive.values()[known] = False
        self._alive.extend(np.ones(1, dtype=bool))
        self.index[comment_id] = row
        self._late.setdefault(thread, array("i")).append(row)

    def rate(self, comment_id: str, likes: int, created_ms: int) -> bool:
        """Say how many likes a comment has and since when it exists; False if it is not known."""
        at = self.index[comment_id]
        if at < 0:
            return False
        self._likes.values()[at] = min(likes, _MOST_LIKES)
        self._created_ms.values()[at] = created_ms
        return True

    def created_ms(self, rows: Rows) -> NDArray[np.int64]:
        """Since when comments exist, as the catalog told, Unix ms; 0 unknown."""
        created: NDArray[np.int64] = self._created_ms.values()[rows]
        return created

    def set(self, comment_id: str, alive: bool) -> bool:
        """Mark a comment; False if it is not known."""
        at = self.index[comment_id]
        if at < 0:
            return False
        self._alive.values()[at] = alive
        return True

    def keep(self, comment_ids: Iterable[str]) -> int:
        """Exactly these are alive from now on; returns how many of them are not known."""
        mask, unknown = self.index.mask(comment_ids, len(self._alive))
        self._alive.values()[:] = mask
        return unknown

    def alive(self) -> NDArray[np.bool_]:
        """Which rows may be recommended, [rows]; a view."""
        return self._alive.values()

    def set_all(self, alive: bool) -> None:
        # rows that another has replaced stay dead
        self.keep(self.index if alive else ())

    def alive_count(self) -> int:
        return int(np.count_nonzero(self._alive.values()))

    def of(self, thread: int) -> NDArray[np.int32]:
        """Rows of the alive comments in a thread, ascending."""
        own = np.empty(0, dtype=np.int32)
        if thread + 1 < len(self._offsets):
            own = self._order[self._offsets[thread] : self._offsets[thread + 1]]
        late = self._late.get(thread)
        if late is not None:
            # a copy: the array may grow meanwhile, which a view of it would forbid
            own = np.concatenate((own, np.frombuffer(late.tobytes(), dtype=np.int32)))
        own = own[self._alive.values()[own]]
        return own if len(own) <= MOST else np.sort(self._worth_scoring(own))

    def _worth_scoring(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """`MOST` of the rows [n]: half by likes, the rest by time, the later row first where equal."""
        rows = rows[np.lexsort((rows, self._likes.values()[rows]))]
        liked, others = rows[-(MOST // 2) :], rows[: -(MOST // 2)]
        newest = others[np.lexsort((others, self._created_ms.values()[others]))][-(MOST - len(liked)) :]
        return np.concatenate((liked, newest))

    def scores(self, rows: NDArray[np.int32], preference: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines of comments [n] to a preference [d], times the preference's length."""
        if len(rows) == 0 or rows[-1] < len(self._inverse_lengths):  # all of the bundle
            return (self.vectors.base[rows] @ preference) * self._inverse_lengths[rows]
        vectors = self.vectors.take(rows)
        return (vectors @ preference) * inverse_lengths(vectors)
