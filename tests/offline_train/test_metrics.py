"""Metrics against a brute force over all ways to break ties."""

from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_train.metrics import METRICS, Ranks, per_target, rank_lists, rank_rows, summary

GAINS = {"recall": lambda r: 1.0, "ndcg": lambda r: 1 / log2(1 + r), "mrr": lambda r: 1 / r}


def brute(scores: list[float], target: int, metric: str, k: int) -> float:
    """Sort once per permutation of the candidates: a stable sort breaks ties by the permutation."""
    values = []
    for order in permutations(range(len(scores))):
        rank = 1 + sorted(order, key=lambda i: -scores[i]).index(target)
        values.append(GAINS[metric](rank) if rank <= k else 0.0)
    return sum(values) / len(values)


@given(
    st.lists(st.sampled_from([-float("inf"), -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=5),
    st.integers(0, 4),
    st.integers(1, 6),
    st.sampled_from(METRICS),
)
def test_every_metric_is_the_mean_over_all_ways_to_break_ties(
    scores: list[float], target: int, k: int, metric: str
) -> None:
    target %= len(scores)
    ranks = rank_rows(np.array([scores]), np.array([target]), np.ones((1, len(scores)), bool))
    assert per_target(ranks, metric, k)[0] == pytest.approx(brute(scores, target, metric, k))


@given(st.data())
def test_lists_and_rows_agree_and_only_allowed_candidates_compete(data: st.DataObject) -> None:
    lists = data.draw(
        st.lists(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6), max_size=5)
    )
    targets = [data.draw(st.integers(0, len(one) - 1)) for one in lists]
    starts = np.cumsum([0, *map(len, lists)])
    scores = np.array([s for one in lists for s, _ in one], float)
    allowed = np.array([a for one in lists for _, a in one], bool)
    places = starts[:-1] + np.array(targets, int)
    allowed[places] = True
    ranks = rank_lists(scores, starts, places, allowed)
    assert len(ranks) == len(lists)
    for i, one in enumerate(lists):
        mine = slice(starts[i], starts[i + 1])
        row = rank_rows(scores[None, mine], np.array([targets[i]]), allowed[None, mine])
        assert (ranks.above[i], ranks.tied[i]) == (row.above[0], row.tied[0])
        kept = [s for (s, _), a in zip(one, allowed[mine], strict=True) if a]
        assert ranks.above[i] == sum(s > one[targets[i]][0] for s in kept)


def test_a_constant_score_has_the_figures_of_the_random_ranking() -> None:
    n, k = 50, 10
    constant = rank_rows(np.zeros((1, n)), np.array([0]), np.ones((1, n), bool))
    assert per_target(constant, "recall", k)[0] == pytest.approx(k / n)
    rng = np.random.default_rng(0)
    many = rank_rows(rng.random((20_000, n)), np.zeros(20_000, int), np.ones((20_000, n), bool))
    for metric in METRICS:
        assert per_target(constant, metric, k)[0] == pytest.approx(per_target(many, metric, k).mean(), abs=0.01)


def test_a_target_outside_its_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="not among its candidates"):
        rank_rows(np.zeros((1, 3)), np.array([1]), np.array([[True, False, True]]))
    with pytest.raises(ValueError, match="not among its candidates"):
        rank_lists(np.zeros(3), np.array([0, 3]), np.array([1]), np.array([True, False, True]))


def test_a_nan_is_refused_where_it_competes_and_ignored_where_it_does_not() -> None:
    scores = np.array([[np.nan, 1.0]])
    with pytest.raises(ValueError, match="NaN"):
        rank_rows(scores, np.array([1]), np.ones((1, 2), bool))
    assert rank_rows(scores, np.array([1]), np.array([[False, True]])).above[0] == 0


def test_summary_of_a_known_ranking() -> None:
    ranks = Ranks(np.array([0, 2]), np.array([1, 1]))  # ranks 1 and 3
    figures = summary(ranks)
    assert figures["recall@1"] == 0.5
    assert figures["mrr@5"] == pytest.approx((1 + 1 / 3) / 2)
    assert figures["ndcg@5"] == pytest.approx((1 + 1 / 2) / 2)
    assert len(figures) == 12


def test_unknown_metrics_and_empty_sets_are_said_so() -> None:
    with pytest.raises(ValueError, match="unknown metric"):
        per_target(Ranks(np.array([0]), np.array([1])), "auc", 5)
    assert np.isnan(summary(Ranks.join([]))["ndcg@10"])
