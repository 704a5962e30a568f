"""From the results of several seeds to rows of a table, and to a verdict on two scorers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

import numpy as np
from msgspec import Struct

from offline_train.evaluation import Result
from offline_train.metrics import per_target

#: a difference of so many standard errors is not put down to the choice of test targets (5 % by chance)
SIGNIFICANT = 1.96
NOT_TOLD_APART = "not told apart from"
#: what models are compared by where one figure has to do
HEADLINE = "ndcg@10"
#: the row of a simulation's truth: what can be reached at all, and no baseline
ORACLE = "oracle"


class Row(Struct, frozen=True):
    """One figure of `results.json`: `metric` is `ndcg@10` and so on, `std` over the `seeds` runs (0 for one run)."""

    data: str
    task: str
    protocol: str
    split: str
    model: str
    metric: str
    mean: float
    std: float
    seeds: int


class Verdict(Struct, frozen=True):
    """How a scorer compares with another on the same targets: the mean difference per target and its standard error."""

    difference: float
    error: float

    @property
    def word(self) -> str:
        """`above`, `below`, or `not told apart from`."""
        if abs(self.difference) <= SIGNIFICANT * self.error:
            return NOT_TOLD_APART
        return "above" if self.difference > 0 else "below"

    def __str__(self) -> str:
        return f"{self.difference:+.4f} ± {self.error:.4f}"


def rows(data: str, results: Iterable[Result]) -> list[Row]:
    """Mean and sample standard deviation over the results of one model (its seeds), in the order of appearance."""
    groups: dict[tuple[str, str, str, str, str], list[float]] = {}
    for result in results:
        for metric, value in result.values.items():
            key = (result.task, result.protocol, result.split, result.model, metric)
            groups.setdefault(key, []).append(value)
    return [
        Row(data, *key, mean=float(np.mean(values)), std=_std(values), seeds=len(values))
        for key, values in groups.items()
    ]


def compare(one: Sequence[Result], other: Sequence[Result], metric: str = "ndcg", k: int = 10) -> Verdict:
    """Compare two scorers' results (one per seed, averaged) target by target.

    The standard error is that of a paired difference over targets: it tells whether other targets of the same kind
    could turn the order round, and takes targets as independent.

    Raises:
        ValueError: the two did not rank the same number of targets.
    """
    difference = _mean(one, metric, k) - _mean(other, metric, k)
    n = len(difference)
    error = float(difference.std(ddof=1)) / sqrt(n) if n > 1 else float("inf")
    return Verdict(float(difference.mean()) if n else float("nan"), error)


def _mean(results: Sequence[Result], metric: str, k: int) -> np.ndarray:
    """[targets]; the mean over seeds."""
    return np.mean([per_target(result.ranks, metric, k) for result in results], axis=0)


def headline(results: Sequence[Result]) -> float:
    """NDCG@10, the mean over one model's results."""
    return sum(result.values[HEADLINE] for result in results) / len(results)


def _std(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
