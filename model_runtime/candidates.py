"""What may be recommended: the videos that are alive, less what a user must not get."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from model_runtime import choice
from model_runtime.bundle import Bundle
from model_runtime.comments import Comments
from model_runtime.ids import video_digest
from model_runtime.index import Index
from model_runtime.names import Names
from model_runtime.rows import Column, Table, inverse_lengths


class Candidates:
    """A bundle's videos and comments, and those that appeared since; each alive or not. All are alive at first.

    A video's row is its place in the tables. A row's vectors never change, so what was computed from rows stays true: a
    video that gets another title gets another row. Rows are not used again before the next bundle, because histories
    that hold a removed video still need its vectors.

    One thread may add and remove while another scores: a row is in the tables before its id is, flags are single
    numbers, and `penalties` hands out a copy.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._ids = bundle.video_ids
        self.names = Names(self._ids)
        self.video_index = Index.of(self._ids)
        self.comments = Comments(bundle)
        self.id_vectors = Table(bundle.video_id_vectors)
        self.title_vectors = Table(bundle.video_title_vectors)
        self.comment_vectors = Table(bundle.video_comment_vectors)
        self.vectors = Table(bundle.video_vectors)  # L2-normalised
        self._alive = Column(None, np.bool_)
        self._alive.extend(np.ones(len(self._ids), dtype=bool))
        self._threads = Column(None, np.int32)  # of the late videos; a bundle's video has the thread of its row
        self._orphans: dict[str, int] = {}  # threads of videos that are not known yet
        self.created_ms: dict[str, int] = {}  #: Unix ms, of videos that the bundle does not know
        self.additions = 0  # how many ids became known
        self.edits = 0  # how many known ids got another row
        # How many rows were begun for videos, and how many can be found: whoever reads `moved`, looks rows up and then
        # reads another `moving` may have missed a video that got its row meanwhile.
        self.moving = self.moved = 0
        self._changes = 0
        self._flags: tuple[int, NDArray[np.bool_]] = (0, self._alive.values().copy())
        self._penalties: tuple[int, int, NDArray[np.float32] | None] = (0, len(self._ids), None)
        self._digests = _Digests(np.fromiter(map(video_digest, self._ids), dtype=np.uint32, count=len(self._ids)))
        self._late_digests = Column(None, np.uint32)

    def __len__(self) -> int:
        """How many rows there are, alive or not."""
        return len(self._alive)

    # --- growth -------------------------------------------------------------------------------------------------------

    def add_video(
        self, video_id: str, title: NDArray[np.float32], popular_comment: NDArray[np.float32] | None = None
    ) -> None:
        """Add a video, alive, or give one that is known another title.

        Args:
            video_id: its id; if the bundle knows it, its id embedding is kept, else that is zero.
            title: [d] A t(title).
            popular_comment: [d] A t(popular comment); zero, as for a video without comments, unless given.

        Raises:
            ValueError: a vector of another width, or one that is not finite.
        """
        title = self._checked(title, video_id)
        comment = None if popular_comment is None else self._checked(popular_comment, video_id)
        known = self.video_index[video_id]
        at = np.array([known])
        if known >= 0 and np.array_equal(self.title_vectors.take(at)[0], title):
            same = comment is None or np.array_equal(self.comment_vectors.take(at)[0], comment)
            if same:
                self.set_video(video_id, True)
                return
        row, thread = len(self._alive), self._thread(video_id)
        id_vector = self.id_vectors.take(at)
        self.id_vectors.late.extend(id_vector)
        self.title_vectors.late.extend(title[None])
        self.comment_vectors.late.extend(self.comment_vectors.take(at) if comment is None else comment[None])
        vector = id_vector + title
        self.vectors.late.extend(vector * inverse_lengths(vector)[:, None])
        self.names.append(video_id)
        self._threads.extend(np.array([thread], np.int32))
        self._late_digests.extend(np.array([video_digest(video_id)], np.uint32))
        # A scorer may look at any moment: for one it may find neither row of an id alive, but never both, and whoever
        # finds the row in the index also finds a view that has it.
        self.moving += 1
        if known >= 0:
            self._alive.values()[known] = False
        self._alive.extend(np.ones(1, dtype=bool))
        self._changes += 1
        self.video_index[video_id] = row
        if known >= 0:
            self.edits += 1
        else:
            self._orphans.pop(video_id, None)
            self.additions += 1
        self.moved += 1

    def add_comment(
        self, comment_id: str, video_id: str, vector: NDArray[np.float32], likes: int = 0, created_ms: int = 0
    ) -> None:
        """Add a comment, alive, or give one that is known another text. Its video may follow later.

        Args:
            comment_id: its id.
            video_id: the video that it is under; of a comment that is known, the video it is under already.
            vector: [d] A t(comment).
            likes, created_ms: decide which comments are scored where a video has more than `comments.MOST`.

        Raises:
            ValueError: a vector of another width, or one that is not finite.
        """
        vector = self._checked(vector, comment_id)
        known = self.comments.index[comment_id]
        if known >= 0 and np.array_equal(self.comments.vectors.take(np.array([known]))[0], vector):
            self.comments.rate(comment_id, likes, created_ms)
            self.comments.set(comment_id, True)
            return
        self.comments.add(comment_id, self._thread(video_id), vector, likes, created_ms)
        if known >= 0:
            self.edits += 1
        else:
            self.additions += 1

    def _thread(self, video_id: str) -> int:
        row = self.video_index[video_id]
        if row >= len(self._ids):
            return int(self._threads.values()[row - len(self._ids)])
        if row >= 0:
            return row
        if video_id not in self._orphans:
            self._orphans[video_id] = self.comments.open_thread()
        return self._orphans[video_id]

    def _checked(self, vector: NDArray[np.float32], id_: str) -> NDArray[np.float32]:
        vector = np.asarray(vector, dtype=np.float32)
        if vector.shape != self.vectors.base.shape[1:] or not np.isfinite(vector).all():
            raise ValueError(f"{id_}: a finite vector of {self.vectors.base.shape[1]} numbers is needed")
        return vector

    # --- life and death -----------------------------------------------------------------------------------------------

    def set_video(self, video_id: str, alive: bool) -> bool:
        """Mark a video; False if it is not known."""
        at = self.video_index[video_id]
        if at < 0:
            return False
        flags = self._alive.values()
        if flags[at] != alive:
            flags[at] = alive
            self._changes += 1
        return True

    def set_comment(self, comment_id: str, alive: bool) -> bool:
        """Mark a comment; False if it is not known."""
        return self.comments.set(comment_id, alive)

    def keep_videos(self, video_ids: Iterable[str]) -> int:
        """Exactly these are alive from now on, at once; returns how many of them are not known."""
        mask, unknown = self.video_index.mask(video_ids, len(self._alive))
        self._alive.values()[:] = mask
        self._changes += 1
        return unknown

    def keep_comments(self, comment_ids: Iterable[str]) -> int:
        """Exactly these are alive from now on, at once; returns how many of them are not known."""
        return self.comments.keep(comment_ids)

    def set_all_videos(self, alive: bool) -> None:
        self.keep_videos(self.video_index if alive else ())

    def set_all_comments(self, alive: bool) -> None:
        self.comments.set_all(alive)

    def alive_videos(self) -> int:
        """How many videos are alive."""
        return int(np.count_nonzero(self._alive.values()))

    def alive_comments(self) -> int:
        """How many comments are alive."""
        return self.comments.alive_count()

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def video_ids(self) -> NDArray[np.object_]:
        """The id of each row, [rows]; a copy if any came later than the bundle."""
        return self.names.all()

    def bundle_rows(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The bundle's rows of the same videos, which differ where a title changed; -1 of those not in the bundle."""
        n = len(self._ids)
        threads = rows.copy()
        late = rows >= n
        threads[late] = self._threads.values()[rows[late] - n]
        return np.where(threads < n, threads, -1)

    def comments_of(self, video_id: str) -> NDArray[np.int32]:
        """Rows of the alive comments under a video, ascending, at most `comments.MOST`; none under an unknown or a
        removed video."""
        at = self.video_index[video_id]
        if at < 0 or not self._alive.values()[at]:
            return np.empty(0, dtype=np.int32)
        return self.comments.of(self._thread(video_id))

    def penalties(self) -> NDArray[np.float32] | None:
        """What to add to the scores of the videos, [rows]: 0 if alive, -inf if not. None if all are alive.

        A copy, made anew only after a change: later changes don't reach into a batch that is being scored.
        """
        return self.view()[1]

    def view(self) -> tuple[int, NDArray[np.float32] | None]:
        """How many rows there are, and their `penalties`."""
        alive, changes = self.alive(), self._flags[0]
        if self._penalties[0] != changes:
            penalties = None if alive.all() else np.where(alive, np.float32(0), np.float32(-np.inf))
            self._penalties = (changes, len(alive), penalties)
        return self._penalties[1:]

    def alive(self) -> NDArray[np.bool_]:
        """Which rows may be recommended, [rows]; a copy, made anew only after a change. For the scoring thread."""
        changes = self._changes  # read before the flags: a change in between makes the copy stale, never wrong
        if self._flags[0] != changes:
            self._flags = (changes, self._alive.values().copy())
        return self._flags[1]

    def barred(self, own: NDArray[np.int64], digests: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Rows that each user must not get, [B, e]: the user's `own` [B, n], and those of the digests; -1 fills.

        All videos of a digest are barred when several share it. Digests of unknown videos are skipped. Not for several
        threads at a time.
        """
        flat = array("I")
        for some in digests:
            flat.extend(some)
        wanted, sizes = np.frombuffer(flat, np.uint32), np.array([len(some) for some in digests], np.int64)
        self._digests.extend(self._late_digests.values()[len(self._digests) - len(self._ids) :])
        return self._digests.find(own, wanted, sizes)


class _Digests:
    """Digests of rows, sorted, and where those with the same first bits begin."""

    def __init__(self, digests: NDArray[np.uint32]) -> None:
        self._rows = np.argsort(digests, kind="stable")
        self._sorted = digests[self._rows]
        self._index()

    def __len__(self) -> int:
        return len(self._rows)

    def _index(self) -> None:
        bits = max(1, min(24, len(self._rows).bit_length()))
        self._shift = np.int64(32 - bits)
        self._starts = np.searchsorted(self._sorted, np.arange(1 << bits, dtype=np.int64) << self._shift)
        self._starts = np.append(self._starts, len(self._rows)).astype(np.int64)

    def extend(self, digests: NDArray[np.uint32]) -> None:
        """Digests of the rows after the last; a copy of all, so for many at a time."""
        if len(digests) == 0:
            return
        order = np.argsort(digests, kind="stable")
        at = np.searchsorted(self._sorted, digests[order], side="right")
        self._rows = np.insert(self._rows, at, len(self._rows) + order)
        self._sorted = np.insert(self._sorted, at, digests[order])
        if len(self._rows) > 4 * len(self._starts):
            self._index()
        else:
            self._starts[1:] += np.cumsum(np.bincount(digests >> self._shift, minlength=len(self._starts) - 1))

    def find(self, own: NDArray[np.int64], wanted: NDArray[np.uint32], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """`own` [B, n], and beside it the rows that have a user's digests, sizes[user] of them, one after another."""
        found: NDArray[np.int64]
        if (module := choice.module()) is not None:
            found = module.find(own, wanted, sizes, self._starts, self._shift, self._sorted, self._rows)
            return found
        left = np.searchsorted(self._sorted, wanted, side="left")
        counts = np.searchsorted(self._sorted, wanted, side="right") - left
        # left[i], left[i] + 1, ..., left[i] + counts[i] - 1 for each i, without a loop
        ends = np.cumsum(counts)
        at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(left - ends + counts, counts)
        users = np.repeat(np.repeat(np.arange(len(sizes)), sizes), counts)
        of = np.bincount(users, minlength=len(sizes))
        found = np.full((len(sizes), own.shape[1] + of.max(initial=0)), -1)
        found[:, : own.shape[1]] = own
        found[users, own.shape[1] + np.arange(len(users)) - np.repeat(np.cumsum(of) - of, of)] = self._rows[at]
        return found
