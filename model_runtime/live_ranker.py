"""What ranking with live signals has in common for videos and comments: columns by candidate row, counts, the formula.

Counts are by id, shared by all models that serve (`model_runtime.signals`); each model finds them through a row's place
in the tally, so that a batch costs a few gathers. For one scoring thread; others may count, and take in arrivals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.blend import Blender
from model_runtime.candidates import Candidates
from model_runtime.live_features import item_columns, stacked
from model_runtime.live_section import LiveItems, LiveTask
from model_runtime.ranking import DECIMALS
from model_runtime.rows import Column
from model_runtime.signals import Signals, Tally

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


class Part(Struct, frozen=True, gc=False):
    """Why an item has its score: what the SR gave, what live signals added, and which sources named it."""

    sr: float
    live: float
    sources: tuple[str, ...]


class Ranked(NamedTuple):
    """A user's best items: rows, scores (5 decimals), and why, if that was asked for."""

    rows: Rows
    scores: NDArray[np.float64]
    parts: list[Part] | None


class Ranker(ABC):
    """What videos and comments have in common: columns by row, counts, and the formula."""

    kind: str

    def __init__(self, candidates: Candidates, task: LiveTask, items: LiveItems, signals: Signals) -> None:
        """
        Raises:
            ValueError: the counts are kept with other half-lives.
        """
        if unknown := [value for value in task.half_lives_ms if value not in signals.half_lives_ms]:
            raise ValueError(
                f"live signals of {self.kind}s need a half-life of {unknown[0] / 3_600_000:g} h, which workers don't "
                f"count with; train with some of {', '.join(f'{v / 3_600_000:g}' for v in signals.half_lives_ms)} h"
            )
        self._candidates = candidates
        self._signals = signals
        self._blender = Blender(task.blend)
        self._half_lives_ms = task.half_lives_ms
        self._at = np.array([signals.half_lives_ms.index(value) for value in task.half_lives_ms])
        self._time = task.time
        self._since = Column(None, np.int64)
        self._since.extend(items.since_ms)
        self._base = items.base
        self._item = Column(None, np.int32)  # rows' places in the tally, -1: nothing was counted
        self._tally: Tally | None = None
        self._counted = 0  # so many of the tally's ids were looked up

    def _sync(self, count: int) -> Tally:
        """Take in rows up to `count`, and what was counted for the first time."""
        tally = self._signals.kinds[self.kind].total
        if tally is not self._tally:
            self._tally, self._counted, self._item = tally, 0, Column(None, np.int32)
            self._item.extend(np.full(len(self._since), -1, np.int32))
        if (first := len(self._since)) < count:
            rows = np.arange(first, count)
            self._since.extend(self._since_of(rows))
            found = map(tally.index.get, self._names(rows))
            self._item.extend(np.fromiter((-1 if at is None else at for at in found), np.int32, len(rows)))
        new = tally.ids[self._counted :]
        rows = np.fromiter(map(self._row_of, new), np.intp, len(new))
        there = np.flatnonzero((rows >= 0) & (rows < len(self._item)))
        self._item.values()[rows[there]] = self._counted + there
        self._counted += len(new)
        return tally

    def _items(self, tally: Tally, rows: Rows, now_ms: int) -> tuple[dict[str, Floats], NDArray[np.int64]]:
        """The features of rows that don't depend on the user, and since when each exists."""
        if not self._time:
            return {}, self._since.values()[rows]
        at = self._item.values()[rows]
        there = at >= 0
        counts = np.zeros((len(rows), len(self._at)))
        counts[there] = tally.counts.at(now_ms, at[there])[:, self._at]
        since = self._since.values()[rows]
        since[there] = np.minimum(since[there], tally.first_ms.values()[at[there]])
        return item_columns(counts, since, self._base_of(rows), now_ms, self._half_lives_ms), since

    def _blend(self, columns: dict[str, Floats], sr: Floats) -> Floats:
        """SR + f."""
        return np.asarray(sr + self._blender(stacked(self._blender.features, columns)))

    @abstractmethod
    def _base_of(self, rows: Rows) -> NDArray[np.int64]: ...

    @abstractmethod
    def _since_of(self, rows: Rows) -> NDArray[np.int64]: ...

    @abstractmethod
    def _names(self, rows: Rows) -> list[str]: ...

    @abstractmethod
    def _row_of(self, id_: str) -> int: ...


def best_of(
    rows: Rows,
    sr: Floats,
    blended: Floats,
    most: int,
    sources: Callable[[Rows], Sequence[tuple[str, ...]]] | None = None,
) -> Ranked:
    """The `most` best of rows [n] by blended scores [n], ties by row; explained if `sources` names those of rows."""
    scores = blended.astype(np.float64).round(DECIMALS)
    order = np.argsort(-scores, kind="stable")[:most]
    order = order[np.isfinite(scores[order])]
    found, total = rows[order], scores[order]
    if sources is None:
        return Ranked(found, total, None)
    own = sr[order].astype(np.float64).round(DECIMALS)
    added = (total - own).round(DECIMALS)
    parts = [Part(*part) for part in zip(own.tolist(), added.tolist(), sources(found), strict=True)]
    return Ranked(found, total, parts)


def taken(values: NDArray[Any], rows: Rows, otherwise: Any) -> NDArray[Any]:
    """values[rows], `otherwise` where a row is -1."""
    found = np.full(len(rows), otherwise, values.dtype)
    there = rows >= 0
    found[there] = values[rows[there]]
    return found
