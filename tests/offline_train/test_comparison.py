"""Rows over seeds, and verdicts on two scorers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_train.comparison import compare, rows
from offline_train.evaluation import Result
from offline_train.metrics import Ranks, summary


def result(model: str, above: list[int]) -> Result:
    ranks = Ranks(np.array(above), np.ones(len(above), np.int64))
    return Result("video", "full", "temporal", model, summary(ranks), {"ranked": len(above)}, 10.0, ranks=ranks)


def test_rows_are_means_and_deviations_over_the_seeds_of_a_model() -> None:
    found = {(row.model, row.metric): row for row in rows("D", [result("m", [0]), result("x", [0]), result("m", [1])])}
    assert found["m", "recall@1"].mean == 0.5
    assert found["m", "recall@1"].std == pytest.approx(np.sqrt(0.5))
    assert found["m", "recall@1"].seeds == 2
    assert (found["x", "mrr@10"].mean, found["x", "mrr@10"].std, found["x", "mrr@10"].seeds) == (1, 0, 1)


def test_a_result_without_figures_gives_no_row() -> None:
    assert rows("D", [Result("comment", "full", "temporal", "newest first", {}, {}, note="a leak")]) == []


def test_the_same_scorer_is_not_told_apart_from_itself() -> None:
    one = [result("m", [0, 3, 9])]
    assert compare(one, one).difference == 0
    assert compare(one, one).word == "not told apart from"


def test_a_clear_difference_has_a_side() -> None:
    good, bad = [result("good", [0, 1] * 50)], [result("bad", [8, 9] * 50)]
    assert compare(good, bad).word == "above"
    assert compare(bad, good).word == "below"


def test_few_targets_do_not_tell_apart() -> None:
    assert compare([result("a", [0, 5])], [result("b", [1, 4])]).word == "not told apart from"
    assert compare([result("a", [0])], [result("b", [9])]).word == "not told apart from"


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=30))
def test_comparing_is_antisymmetric_and_agrees_with_the_means(pairs: list[tuple[int, int]]) -> None:
    one, other = ([result("x", list(column))] for column in zip(*pairs, strict=True))
    forth, back = compare(one, other), compare(other, one)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.error == pytest.approx(back.error)
    assert forth.difference == pytest.approx(one[0].values["ndcg@10"] - other[0].values["ndcg@10"])
