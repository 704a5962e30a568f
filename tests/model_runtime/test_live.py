"""Decayed counts are a plain sum over events, in whatever order and on however many workers it is taken."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.live import FADED, DecayedCounts

DAY = 86_400_000
START = 1_700_000_000_000
HALF_LIVES = (DAY / 24, DAY, 30 * DAY)
ITEMS = 4

#: (item, ms after START) within three years: thousands of the shortest half-lives
events = st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 1000 * DAY)), max_size=40)


def counted(log: list[tuple[int, int]], at_once: int = 1) -> DecayedCounts:
    counts = DecayedCounts(HALF_LIVES, ITEMS)
    if at_once == 1:
        for item, ms in log:
            counts.add_one(item, START + ms)
    else:
        for first in range(0, len(log), at_once):
            part = log[first : first + at_once]
            counts.add([item for item, _ in part], [START + ms for _, ms in part])
    return counts


def by_definition(log: list[tuple[int, int]], now_ms: int) -> np.ndarray:
    found = np.zeros((ITEMS, len(HALF_LIVES)))
    for item, ms in log:
        for k, half_life in enumerate(HALF_LIVES):
            found[item, k] += 2.0 ** (-(now_ms - START - ms) / half_life)
    return found


def now_of(log: list[tuple[int, int]], later: int = 0) -> int:
    return START + max((ms for _, ms in log), default=0) + later


@given(events, st.integers(0, 400 * DAY))
def test_streamed_and_in_batches_it_is_the_sum_over_events(log: list[tuple[int, int]], later: int) -> None:
    now_ms = now_of(log, later)
    for at_once in (1, 7, 1000):
        np.testing.assert_allclose(counted(log, at_once).at(now_ms), by_definition(log, now_ms), rtol=1e-9, atol=1e-60)


@given(events, st.randoms())
def test_the_order_of_arrival_does_not_matter(log: list[tuple[int, int]], random: object) -> None:
    shuffled = log.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    now_ms = now_of(log)
    np.testing.assert_allclose(counted(shuffled).at(now_ms), counted(log).at(now_ms), rtol=1e-9, atol=1e-60)


@given(events, st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_the_shares_of_partitions_add_up_to_the_whole(log: list[tuple[int, int]], partition: list[int]) -> None:
    now_ms = now_of(log)
    shares = [counted([e for e, p in zip(log, partition, strict=False) if p == n]) for n in range(3)]
    whole = counted(log).at(now_ms)
    merged = DecayedCounts(HALF_LIVES, ITEMS)
    received = DecayedCounts(HALF_LIVES, ITEMS)
    for share in shares:
        merged.merge(share)
        received.put(np.arange(ITEMS), share.at(now_ms), now_ms)
    np.testing.assert_allclose(merged.at(now_ms), whole, rtol=1e-9, atol=1e-60)
    np.testing.assert_allclose(received.at(now_ms), whole, rtol=1e-9, atol=1e-60)


@given(events, events)
def test_a_newer_share_takes_the_place_of_the_older(old: list[tuple[int, int]], new: list[tuple[int, int]]) -> None:
    now_ms = now_of(old + new)
    held = DecayedCounts(HALF_LIVES, ITEMS)
    held.replace(np.arange(ITEMS), counted(old).at(now_of(old)), now_of(old))
    held.replace(np.arange(ITEMS), counted(new).at(now_ms), now_ms)
    np.testing.assert_allclose(held.at(now_ms), counted(new).at(now_ms), rtol=1e-9, atol=1e-60)


@given(events)
def test_what_nobody_touches_fades(log: list[tuple[int, int]]) -> None:
    counts = counted(log)
    halvings = np.log2(max(len(log), 1) / FADED) + 1
    assert len(counts.alive(now_of(log, int(halvings * HALF_LIVES[-1])))) == 0
    assert set(counts.alive(now_of(log))) <= {item for item, _ in log}


def test_a_count_halves_in_its_half_life_and_not_before_its_event() -> None:
    counts = DecayedCounts((DAY,), 1)
    counts.add_one(0, START)
    halves = [counts.at(START + n * DAY)[0, 0] for n in range(5)]
    assert all(after == pytest.approx(before / 2) for before, after in pairwise(halves))
    assert halves[0] == 1.0


def test_new_items_start_at_nothing_and_the_others_keep_their_counts() -> None:
    counts = counted([(1, 0), (3, 5 * DAY)])
    before = counts.at(START + 5 * DAY)
    counts.grow(ITEMS + 3)
    after = counts.at(START + 5 * DAY)
    assert np.array_equal(after[:ITEMS], before)
    assert not after[ITEMS:].any()
    counts.forget([1])
    assert counts.alive(START + 5 * DAY).tolist() == [3]


def test_counts_of_other_half_lives_are_not_added_up() -> None:
    with pytest.raises(ValueError, match="same half-lives"):
        counted([]).merge(DecayedCounts((DAY,), ITEMS))
    with pytest.raises(ValueError, match="positive"):
        DecayedCounts((0.0,))
