"""The best items of a row of scores, exactly, without sorting the row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: scores are published with this many decimals, and ranked as published
DECIMALS = 5

_LOWEST = float(np.finfo(np.float32).min)
#: columns are dealt into this many groups per wanted item: more make the bound tighter and the search in them longer
_GROUPS_PER_ITEM = 16
#: pairs that are compared one by one: of a few, sorting both (as `np.isin` does) takes ten times as long
_COMPARED = 4096
#: two scores that differ by less may be equal as published
_MARGIN = 2 * 10.0**-DECIMALS


def thresholds(scores: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """For each row of [B, n] a lower bound of its `count`-th best score, [B].

    Columns are dealt into groups, and the `count`-th best of the groups' maxima is the bound: at least `count` columns
    reach it. Taking maxima runs at memory speed, where a partial sort of the row does not.
    """
    rows, n = scores.shape
    groups = _GROUPS_PER_ITEM * count
    if n > 2 * groups:
        per_group = n // groups
        scores = scores[:, : per_group * groups].reshape(rows, per_group, groups).max(axis=1)
    elif n <= count:
        return np.full(rows, _LOWEST, dtype=np.float32)
    at = scores.shape[1] - count
    bounds: NDArray[np.float32] = np.partition(scores, at, axis=1)[:, at]
    return bounds


def best(scores: NDArray[np.float32], count: int, threshold: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Columns and rounded scores of the `count` best of one row, best first, ties by column.

    `threshold` is the row's from `thresholds`. Columns at -inf are out; so is everything if the scores are NaN.
    """
    at = np.flatnonzero(scores >= max(threshold - _MARGIN, _LOWEST))
    rounded = scores[at].astype(np.float64).round(DECIMALS)
    order = np.argsort(-rounded, kind="stable")[:count]
    return at[order], rounded[order]


def without(rows: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    """The rows [n] that are not among others [m], in their order."""
    if len(rows) * len(others) <= _COMPARED:
        return rows[(rows[:, None] != others).all(axis=1)]
    return rows[~np.isin(rows, others)]
