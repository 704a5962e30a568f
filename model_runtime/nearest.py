"""The videos nearest to users' preferences: from an index where a catalog is too large to score all of it for everyone.

Below `EXACT_UP_TO` rows everything is scored; that is also what happens until an index is ready, and whenever it can't
be trusted. The index is built in a thread of its own, once enough users were scored for it to know what preferences
look like, and follows the catalog: new rows are scored exactly beside it and go into it a thousand at a time, removed
ones are skipped when found, and it is built again when a quarter of it is dead, when it has doubled, or when its recall
has fallen (now and then a user is scored both ways).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_runtime.candidates import Candidates
from model_runtime.choice import Choice, Found
from model_runtime.near_index import Floats, NearIndex, Rows
from model_runtime.ranking import best, thresholds

log = logging.getLogger(__name__)

#: Rows up to which all are scored. Measured at 50 000, processor time of one user against an index of recall 0.99: for
#: one user alone 2.1 ms against 0.95, for 8 together 0.78 and 0.52, for 32 together the same; at 20 000 it is slower.
EXACT_UP_TO = 50_000
#: of the exact lists' items, the share that an index must find on users that it was not made from
RECALL = 0.99
#: preferences to have seen before an index is built, and how many of the newest are kept
_QUERIES = 1024
#: rows that go into the index together: 10 ms of work
_ADDED_TOGETHER = 1024
#: of how many users one is scored both ways, and how many of these make a judgement
_CHECKED_EVERY, _JUDGED = 4096, 32
_FALLEN = 0.02
_MOST_DEAD, _MOST_BESIDE, _GROWN = 0.25, 0.125, 2.0


class _Ready(NamedTuple):
    """An index, and which rows below `end` are not in it: they were dead when it was built."""

    near: NearIndex
    end: int
    left_out: Rows


class Nearest:
    """For one thread at a time, while another changes the catalog."""

    def __init__(
        self,
        candidates: Candidates,
        count: int,
        *,
        threads: int = 1,
        exact_up_to: int = EXACT_UP_TO,
        recall: float = RECALL,
    ) -> None:
        """`count`: results per user. `recall`: of an index; at least this, on queries that it was not made from."""
        self._candidates, self._count, self._threads = candidates, count, threads
        self._choice = Choice(candidates.vectors)
        self._exact_up_to, self._recall = exact_up_to, recall
        dim = candidates.vectors.base.shape[1]
        self._queries, self._seen = np.zeros((_QUERIES, dim), np.float32), 0
        self._ready: _Ready | None = None
        self._made: tuple[_Ready | None] | None = None  # by the builder, for the next search to take over
        self._builder: threading.Thread | None = None
        self._not_below = exact_up_to + 1  # rows from which on an index is tried
        self._excluded = np.zeros(0, dtype=bool)  # by row; all False between two users
        self._recalls: deque[float] = deque(maxlen=_JUDGED)
        self._until_check = _CHECKED_EVERY
        self._spare = 0  # how many of what an index found a user was not to get, at most, of late

    @property
    def recall(self) -> float | None:
        """What the index in use reached when it was built; None while everything is scored."""
        return None if self._ready is None else self._ready.near.recall

    def wait(self) -> None:
        """Until an index that is being built is ready."""
        if self._builder is not None:
            self._builder.join()

    def search(self, preferences: Floats, excluded: Callable[[], Rows]) -> list[Found] | None:
        """The `count` best of each user, best first, with rounded scores; None: score everything.

        Args:
            preferences: [B, d].
            excluded: gives the rows that each user must not get, [B, e], -1: none; asked after what is alive was
                looked up.
        """
        if len(self._candidates) <= self._exact_up_to:
            return None
        alive = self._candidates.alive()
        self._remember(preferences)
        if self._made is not None:
            (self._ready,), self._made = self._made, None
        there, beside = int(np.count_nonzero(alive)), np.empty(0, np.intp)
        if self._ready is not None:
            beside = self._follow(alive)
        if self._worn(there, len(beside)):
            self._build(alive)
        ready = self._ready
        if ready is None or len(beside) > _MOST_BESIDE * len(ready.near):
            return None
        share = (there - len(beside)) / len(ready.near)  # of the index that is alive
        count = int(self._count / max(share, 1 - _MOST_DEAD))
        return self._merged(ready.near, count, beside, alive, preferences, excluded())

    # --- searching ----------------------------------------------------------------------------------------------------

    def _merged(
        self,
        index: NearIndex,
        count: int,
        beside: Rows,
        alive: NDArray[np.bool_],
        preferences: Floats,
        excluded: Rows,
    ) -> list[Found]:
        """From `count` of the index, and from the rows beside it."""
        if self._choice.ready:
            chosen = self._chosen(index, count, beside, alive, preferences, excluded)
        else:
            near = index.search(preferences, count, excluded.shape[1], self._threads)
            chosen = self._one_by_one(near, beside, alive, preferences, excluded)
        results = [
            # It found too little, or that is all there is.
            self._exactly(alive, preference, excluded[user]) if found is None or len(found[0]) < self._count else found
            for user, (found, preference) in enumerate(zip(chosen, preferences, strict=True))
        ]
        self._check(results, alive, preferences, excluded[0])
        return results

    def _chosen(
        self,
        index: NearIndex,
        count: int,
        beside: Rows,
        alive: NDArray[np.bool_],
        preferences: Floats,
        excluded: Rows,
    ) -> list[Found | None]:
        """The best of what was found and of what is beside, with compiled code.

        Of what users must not get the index finds but a part. So it is asked for as many more as that was of late, and
        asked again for those whom that leaves with less than they were to choose from.
        """
        most = excluded.shape[1]
        spare = min(most, self._spare)
        near = index.search(preferences, count, spare, self._threads)
        chosen, barred = self._choice.best(preferences, near, alive, self._count, beside=beside, excluded=excluded)
        self._spare = max(int(barred.max()), self._spare * 9 // 10)
        short = np.flatnonzero(barred > spare)
        if len(short):
            near = index.search(preferences[short], count, most, self._threads)
            again, _ = self._choice.best(
                preferences[short], near, alive, self._count, beside=beside, excluded=excluded[short]
            )
            for user, found in zip(short.tolist(), again, strict=True):
                chosen[user] = found
        return chosen

    def _one_by_one(
        self, near: Rows, beside: Rows, alive: NDArray[np.bool_], preferences: Floats, excluded: Rows
    ) -> list[Found | None]:
        """The best of what was found and of what is beside, with NumPy."""
        vectors = self._candidates.vectors
        new_scores = preferences @ vectors.take(beside).T  # [B, beside]
        if len(self._excluded) < len(alive):
            self._excluded = np.zeros(2 * len(alive), dtype=bool)
        chosen: list[Found | None] = []
        for user, (found, preference, new) in enumerate(zip(near, preferences, new_scores, strict=True)):
            mine = excluded[user]
            mine = mine[(mine >= 0) & (mine < len(self._excluded))]
            self._excluded[mine] = True
            keep = found[found >= 0]
            keep = np.sort(keep[alive[keep] & ~self._excluded[keep]])
            scores = vectors.take(keep) @ preference
            if len(beside):
                allowed = ~self._excluded[beside]
                keep, scores = np.concatenate((keep, beside[allowed])), np.concatenate((scores, new[allowed]))
                order = np.argsort(keep)
                keep, scores = keep[order], scores[order]
            self._excluded[mine] = False
            at, rounded = best(scores, self._count, thresholds(scores[None], self._count)[0])
            chosen.append((keep[at], rounded))
        return chosen

    def _exactly(self, alive: NDArray[np.bool_], preference: Floats, excluded: Rows) -> Found:
        """The best for one user, from all rows."""
        vectors, count = self._candidates.vectors, len(alive)
        bundled = len(vectors.base)
        scores = np.empty(count, np.float32)
        np.matmul(vectors.base, preference, out=scores[:bundled])
        np.matmul(vectors.late.values()[: count - bundled], preference, out=scores[bundled:])
        scores[~alive] = -np.inf
        scores[excluded[(excluded >= 0) & (excluded < count)]] = -np.inf
        return best(scores, self._count, thresholds(scores[None], self._count)[0])

    def _check(self, results: list[Found], alive: NDArray[np.bool_], preferences: Floats, excluded: Rows) -> None:
        """Score one of many users both ways; `excluded`: what the first must not get."""
        self._until_check -= len(results)
        if self._until_check > 0:
            return
        self._until_check = _CHECKED_EVERY
        exact = self._exactly(alive, preferences[0], excluded)
        self._recalls.append(len(np.intersect1d(exact[0], results[0][0])) / max(1, len(exact[0])))
        results[0] = exact

    # --- following the catalog ----------------------------------------------------------------------------------------

    def _remember(self, preferences: Floats) -> None:
        at = (self._seen + np.arange(len(preferences))) % _QUERIES
        self._queries[at] = preferences
        self._seen += len(preferences)

    def _follow(self, alive: NDArray[np.bool_]) -> Rows:
        """Put into the index what is due; returns the alive rows that are not in it, ascending."""
        assert self._ready is not None
        index, end, left_out = self._ready
        while len(alive) - end >= _ADDED_TOGETHER:
            rows = np.arange(end, end + _ADDED_TOGETHER)
            there = alive[rows]
            index.add(rows[there])
            end, left_out = end + _ADDED_TOGETHER, np.concatenate((left_out, rows[~there]))
        self._ready = _Ready(index, end, left_out)
        return np.concatenate((left_out[alive[left_out]], np.flatnonzero(alive[end:]) + end))

    def _worn(self, there: int, beside: int) -> bool:
        """Whether a new index is due, `there` rows being alive."""
        if self._seen < _QUERIES or (self._builder is not None and self._builder.is_alive()) or self._made:
            return False
        if there < self._not_below:
            return False
        if self._ready is None:
            return True
        index = self._ready.near
        fallen = len(self._recalls) == _JUDGED and np.mean(self._recalls) < self._recall - _FALLEN
        return bool(
            there - beside < (1 - _MOST_DEAD) * len(index)
            or beside > _MOST_BESIDE * len(index)
            or len(index) > _GROWN * index.built
            or fallen
        )

    def _build(self, alive: NDArray[np.bool_]) -> None:
        """Begin a new index of what is alive; the present one serves until it is ready."""
        self._recalls.clear()
        arguments = np.flatnonzero(alive), np.flatnonzero(~alive), len(alive), self._queries.copy()
        self._builder = threading.Thread(target=self._make, args=arguments, name="nearest", daemon=True)
        self._builder.start()

    def _make(self, rows: Rows, left_out: Rows, end: int, queries: Floats) -> None:
        # A little more than wanted: what is measured on some hundred users has an error.
        aim = self._recall + (1 - self._recall) / 8
        try:
            index = NearIndex(self._candidates.vectors.take, rows, queries, self._count, recall=aim, threads=1)
        except ImportError:
            self._not_below = 1 << 62
            log.warning(
                "all of %d videos are scored for every user; to search an index instead: pip install 'lsvcr[index]'",
                len(rows),
            )
            return
        except Exception:
            self._not_below = 2 * len(rows)
            log.exception("no index of %d videos could be built: all of them are scored for every user", len(rows))
            return
        if index.recall < self._recall:
            self._made = (None,)
            self._not_below = 2 * len(rows)
            log.warning(
                "an index of %d videos finds only %.3f of the best %d: all are scored for every user",
                len(rows), index.recall, self._count,
            )  # fmt: skip
            return
        self._made = (_Ready(index, end, left_out),)
        log.info("an index of %d videos is in use; it finds %.3f of the best %d", len(rows), index.recall, self._count)
