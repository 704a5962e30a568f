"""Ranking metrics with one relevant target: Recall, NDCG and MRR at k (`lsvcr.md` §5 restates the paper's choice).

Ties are handled exactly: a metric is its expectation over all ways to break them at random. A scorer that gives
every candidate the same score therefore has the figures of the random ranking, never better, and no metric depends on
the order in which candidates happen to be stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (1, 5, 10, 20)
METRICS = ("recall", "ndcg", "mrr")


@dataclass(frozen=True)
class Ranks:
    """Where each target came, as two columns of length n.

    `above`: candidates that score strictly higher. `tied`: candidates with the target's score, itself included
    (so at least 1). The target's rank is equally likely to be any of above+1 .. above+tied.
    """

    above: NDArray[np.int64]
    tied: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.above)

    @staticmethod
    def join(parts: list[Ranks]) -> Ranks:
        """Several batches' ranks as one, in their order."""
        empty = np.zeros(0, np.int64)
        return Ranks(
            np.concatenate([empty, *(part.above for part in parts)]),
            np.concatenate([empty, *(part.tied for part in parts)]),
        )


def rank_rows(scores: NDArray[np.floating], target: NDArray[np.integer], allowed: NDArray[np.bool_]) -> Ranks:
    """Ranks within the rows of a matrix.

    Args:
        scores: [n, candidates]; minus infinity is a valid score.
        target: [n], the column of each row's target; it must be allowed.
        allowed: [n, candidates], the columns that compete.

    Raises:
        ValueError: a NaN among the allowed scores, or a target that is no candidate.
    """
    rows = np.arange(len(target))
    if not allowed[rows, target].all():
        raise ValueError("a target is not among its candidates; count it as not eligible instead of ranking it")
    if (np.isnan(scores) & allowed).any():
        raise ValueError("a candidate's score is NaN")
    own = scores[rows, target][:, None]
    return Ranks(
        np.count_nonzero((scores > own) & allowed, axis=1).astype(np.int64),
        np.count_nonzero((scores == own) & allowed, axis=1).astype(np.int64),
    )


def rank_lists(
    scores: NDArray[np.floating],
    starts: NDArray[np.integer],
    target: NDArray[np.integer],
    allowed: NDArray[np.bool_],
) -> Ranks:
    """Ranks within lists of different lengths, laid end to end.

    Args:
        scores, allowed: [total]; list i is `starts[i]:starts[i + 1]`.
        starts: [n + 1].
        target: [n], the place of each list's target in `scores`; it must be allowed.

    Raises:
        ValueError: as `rank_rows`.
    """
    if len(target) == 0:
        return Ranks.join([])
    if not allowed[target].all():
        raise ValueError("a target is not among its candidates; count it as not eligible instead of ranking it")
    if (np.isnan(scores) & allowed).any():
        raise ValueError("a candidate's score is NaN")
    own = np.repeat(scores[target], np.diff(starts))
    # No list is empty (each holds its target), which is what reduceat needs.
    return Ranks(
        np.add.reduceat(((scores > own) & allowed).astype(np.int64), starts[:-1]),
        np.add.reduceat(((scores == own) & allowed).astype(np.int64), starts[:-1]),
    )


def per_target(ranks: Ranks, metric: str, k: int) -> NDArray[np.float64]:
    """The expected metric of each target, [n], between 0 and 1.

    With r the target's rank: Recall@k is 1 if r <= k; NDCG@k is 1/log2(1 + r), MRR@k is 1/r, both 0 beyond k.
    """
    places = np.arange(1, k + 1)
    match metric:
        case "recall":
            gain = np.ones(k)
        case "ndcg":
            gain = 1.0 / np.log2(1.0 + places)
        case "mrr":
            gain = 1.0 / places
        case _:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    total = np.concatenate([[0.0], np.cumsum(gain)])  # total[r]: the gains of ranks 1..r
    first, last = np.minimum(ranks.above, k), np.minimum(ranks.above + ranks.tied, k)
    return (total[last] - total[first]) / ranks.tied


def summary(ranks: Ranks, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, float]:
    """The mean over targets of every metric at every cutoff, as `recall@10` and so on; NaN where there is no target."""
    if len(ranks) == 0:
        return {f"{metric}@{k}": float("nan") for metric in METRICS for k in cutoffs}
    return {f"{metric}@{k}": float(per_target(ranks, metric, k).mean()) for metric in METRICS for k in cutoffs}
