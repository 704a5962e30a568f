"""What everyone does, as counts that each worker can add up: decayed counts by id, one share per input partition.

A share is a function of the events of one partition's users, whoever reads them, so a worker that leaves or takes over
a partition changes nothing: the partition's share stays what it was, and its next owner goes on from it. The total is
the sum of all shares, kept up to date with each change of one.

One thread writes; another may read `total` (`model_runtime.live_scoring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from model_runtime.live import FADED, HALF_LIVES_MS, DecayedCounts
from model_runtime.rows import Column

KINDS = ("video", "comment")
#: items of one kind in one partition's share; beyond it the weakest are forgotten
MOST_ITEMS = 200_000
_FIRST_CAPACITY = 1024
#: what has no event yet
NEVER_MS = int(np.iinfo(np.int64).max)

Rows = NDArray[np.intp]


class Tally:
    """Decayed counts of items by id, in the order in which they first came, and the time of each one's first event."""

    def __init__(self, half_lives_ms: Sequence[float]) -> None:
        self.index: dict[str, int] = {}
        self.ids: list[str] = []
        self.counts = DecayedCounts(half_lives_ms)  # of as many rows as there is room for
        self.first_ms = Column(None, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Iterable[str]) -> Rows:
        """The row of each id; one that is new gets the next."""
        index = self.index
        rows = []
        for id_ in ids:
            row = index.get(id_)
            if row is None:
                row = len(self.ids)
                if row >= len(self.counts):
                    self.counts.grow(max(2 * row, _FIRST_CAPACITY))
                self.first_ms.extend(np.array([NEVER_MS]))
                self.ids.append(id_)
                index[id_] = row
            rows.append(row)
        return np.array(rows, np.intp)

    def add(self, rows: Rows, ts_ms: NDArray[np.int64]) -> None:
        """Count events at rows. A row may come several times."""
        if len(rows) == 1:  # as mostly where answers are quick; arrays take ten times as long for it
            row, ts = int(rows[0]), int(ts_ms[0])
            self.counts.add_one(row, ts)
            first = self.first_ms.values()
            first[row] = min(first[row], ts)
            return
        self.counts.add(rows, ts_ms)
        np.minimum.at(self.first_ms.values(), rows, ts_ms)

    def at(self, now_ms: int) -> NDArray[np.float64]:
        """All counts at a moment, [items, K]."""
        return self.counts.at(now_ms, slice(len(self)))

    def kept(self, rows: Rows, now_ms: int) -> Tally:
        """Only these rows, in a tally of their own."""
        few = Tally(self.counts.half_lives_ms.tolist())
        at = few.rows(self.ids[row] for row in rows)
        few.counts.put(at, self.counts.at(now_ms, rows), now_ms)
        few.first_ms.values()[:] = self.first_ms.values()[rows]
        return few


class KindSignals:
    """The shares of all partitions and their total, for items of one kind."""

    def __init__(self, half_lives_ms: Sequence[float]) -> None:
        self._half_lives_ms = half_lives_ms
        self.total = Tally(half_lives_ms)  #: another object once faded items were dropped
        self.shares: dict[int, Tally] = {}

    def share(self, partition: int) -> Tally:
        """The share of a partition, empty at first."""
        if partition not in self.shares:
            self.shares[partition] = Tally(self._half_lives_ms)
        return self.shares[partition]

    def add(self, shares: Mapping[int, tuple[Sequence[str], NDArray[np.int64]]]) -> None:
        """Count events of partitions' users: per partition the items, and when each event was."""
        rows = self.total.rows(chain.from_iterable(ids for ids, _ in shares.values()))
        self.total.add(rows, np.concatenate([ts_ms for _, ts_ms in shares.values()]))
        first = 0
        for partition, (ids, ts_ms) in shares.items():
            share = self.share(partition)
            share.add(share.rows(self._names(rows[first : first + len(ids)])), ts_ms)
            first += len(ids)

    def replace(
        self, partition: int, ids: Sequence[str], counts: NDArray[np.float64], at_ms: int, first_ms: NDArray[np.int64]
    ) -> None:
        """What a partition's share says of some items, in place of what it said before.

        Args:
            ids: distinct.
            counts: [len(ids), K], as they were at `at_ms`; zeros: faded.
            first_ms: [len(ids)], the first event of each.
        """
        share, rows = self.share(partition), self.total.rows(ids)
        own = share.rows(self._names(rows))
        self.total.counts.put(rows, counts - share.counts.at(at_ms, own), at_ms)
        share.counts.replace(own, counts, at_ms)
        for tally, places in ((self.total, rows), (share, own)):
            known = tally.first_ms.values()
            known[places] = np.minimum(known[places], first_ms)

    def _names(self, rows: Rows) -> list[str]:
        """Ids of rows of the total: one string for all shares that hold it."""
        names = self.total.ids
        return [names[row] for row in rows.tolist()]

    def forget(self, partition: int | None, now_ms: int, most: int = MOST_ITEMS) -> list[str]:
        """Drop what faded from a partition's share (None: from the total), and the weakest beyond `most`.

        Returns the ids that were dropped. It waits until there are enough of them to be worth it.
        """
        tally = self.total if partition is None else self.share(partition)
        counts = tally.at(now_ms)
        strength = np.where((counts >= FADED).any(axis=1), counts.sum(axis=1), 0.0)
        keep = np.flatnonzero(strength > 0)
        if len(keep) > most:
            keep = np.sort(keep[np.argsort(-strength[keep], kind="stable")[: most * 3 // 4]])
        if len(tally) - len(keep) <= len(tally) // 4:
            return []
        few = tally.kept(keep, now_ms)
        dropped = np.setdiff1d(np.arange(len(tally)), keep)
        if partition is None:
            self.total = few
        else:
            self.shares[partition] = few
        return [tally.ids[row] for row in dropped]


class Signals:
    """What is alive on the platform: counts of videos and of comments, and the time of the stream.

    `now_ms` is the time of the newest event that was taken in anywhere: no clock is read.
    """

    def __init__(self, half_lives_ms: Sequence[float] = HALF_LIVES_MS) -> None:
        self.half_lives_ms = tuple(half_lives_ms)
        self.now_ms = 0
        self.kinds = {kind: KindSignals(half_lives_ms) for kind in KINDS}

    def advance(self, ts_ms: int) -> None:
        """Something happened at `ts_ms`."""
        self.now_ms = max(self.now_ms, ts_ms)

    def add(self, kind: str, shares: Mapping[int, tuple[Sequence[str], Sequence[int]]]) -> None:
        """Count engagements of partitions' users: per partition the items, and when each engagement was."""
        arrays = {partition: (ids, np.asarray(ts_ms, np.int64)) for partition, (ids, ts_ms) in shares.items() if ids}
        if arrays:
            self.kinds[kind].add(arrays)
            self.advance(max(int(ts_ms.max()) for _, ts_ms in arrays.values()))

    def clear(self) -> None:
        """Forget everything but the time."""
        self.kinds = {kind: KindSignals(self.half_lives_ms) for kind in KINDS}
