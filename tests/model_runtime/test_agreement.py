from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from model_runtime.agreement import agreement, kendall

LISTS = st.lists(st.integers(0, 30).map(str), min_size=1, max_size=20, unique=True)


@given(LISTS, LISTS)
def test_the_rank_correlation_is_kendalls(one: list[str], other: list[str]) -> None:
    shared = [item for item in one if item in other]
    tau = kendall(one, other)
    if len(shared) < 2:
        assert tau is None
    else:
        expected = kendalltau([one.index(i) for i in shared], [other.index(i) for i in shared]).statistic
        assert tau == pytest.approx(expected)


@given(LISTS, st.integers(1, 25))
def test_a_list_agrees_with_itself(items: list[str], k: int) -> None:
    found = agreement([(items, items)], k)
    assert found is not None
    assert (found.overlap, found.same_first, found.same_list) == (1, 1, 1)
    assert found.rank_correlation in (None, 1)


def test_means_are_over_users_with_both_lists() -> None:
    found = agreement([(["a", "b", "c"], ["b", "a", "d"]), (["a"], []), (["x", "y"], ["z", "w"])], k=2)
    assert found is not None
    assert (found.users, found.overlap, found.same_first, found.rank_correlation) == (2, 0.5, 0, -1)
    assert agreement([([], ["a"])]) is None
