from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_runtime.ranking import best, thresholds

# few distinct values, so that ties and barred columns are common, and steps below a decimal, so that rounding matters
_values = st.one_of(
    st.just(-np.inf), st.integers(-3, 3).map(float), st.integers(-30, 30).map(lambda i: 1 + i * 2.5e-6)
).map(np.float32)


_shapes = st.tuples(st.integers(1, 2), st.integers(1, 80))


@given(arrays(np.float32, _shapes, elements=_values), st.integers(1, 3))
def test_best_is_a_full_sort_cut_short(scores: np.ndarray, count: int) -> None:
    bounds = thresholds(scores, count)
    for row, bound in zip(scores, bounds, strict=True):
        rounded = np.float64(row).round(5)
        expected = sorted((-score, at) for at, score in enumerate(rounded.tolist()) if score > -np.inf)[:count]
        at, found = best(row, count, float(bound))
        assert list(zip((-found).tolist(), at.tolist(), strict=True)) == expected


def test_long_rows_are_searched_in_groups() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 5003)).astype(np.float32)
    bounds = thresholds(scores, 7)
    for row, bound in zip(scores, bounds, strict=True):
        assert np.count_nonzero(row >= bound) < 20  # the bound is tight, not merely valid
        at, _ = best(row, 7, float(bound))
        assert at.tolist() == np.argsort(-row)[:7].tolist()


def test_scores_that_are_no_numbers_rank_nothing() -> None:
    scores = np.full((1, 40), np.nan, dtype=np.float32)
    at, found = best(scores[0], 3, float(thresholds(scores, 3)[0]))
    assert (at.tolist(), found.tolist()) == ([], [])
