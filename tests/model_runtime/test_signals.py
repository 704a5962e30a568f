"""Counts by id in shares: however events are spread over partitions and workers, the total is the same sum."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.live import FADED
from model_runtime.signals import NEVER_MS, KindSignals, Signals
from model_runtime.sources import best_first, top

HOUR = 3_600_000
HALF_LIVES = (HOUR, 24 * HOUR)
START = 1_700_000_000_000

#: (partition, item, hours after START)
Events = list[tuple[int, str, int]]
events: st.SearchStrategy[Events] = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("abcd"), st.integers(0, 200)), max_size=40
)


def counted(log: Sequence[tuple[int, str, int]], at_once: int = 5) -> Signals:
    """What one worker with all partitions has, events taken in slices."""
    signals = Signals(HALF_LIVES)
    for first in range(0, len(log), at_once):
        shares = {}
        for partition in range(3):
            mine = [event for event in log[first : first + at_once] if event[0] == partition]
            shares[partition] = [i for _, i, _ in mine], [START + h * HOUR for _, _, h in mine]
        signals.add("video", shares)
    return signals


def figures(kind: KindSignals, now_ms: int) -> dict[str, list[float]]:
    """Counts by id, without those of nothing."""
    found = zip(kind.total.ids, kind.total.at(now_ms).round(9).tolist(), strict=True)
    return {id_: counts for id_, counts in found if any(counts)}


def first_events(kind: KindSignals) -> dict[str, int]:
    return dict(zip(kind.total.ids, kind.total.first_ms.values().tolist(), strict=True))


def send(share_of: Signals, to: Signals, partition: int, at_ms: int) -> None:
    """A worker hears of another's share, all of it."""
    share = share_of.kinds["video"].share(partition)
    to.kinds["video"].replace(partition, share.ids, share.at(at_ms), at_ms, share.first_ms.values())
    to.advance(at_ms)


def test_an_id_is_one_string_for_all_shares_however_they_came() -> None:
    kind = Signals(HALF_LIVES).kinds["video"]
    for partition in range(4):
        # as they are decoded from records: equal, and not the same
        ids = ["".join(("video ", number)) for number in "123"]
        if partition % 2:
            kind.add({partition: (ids, np.full(3, START))})
        else:
            kind.replace(partition, ids, np.ones((3, 2)), START, np.full(3, START))
    for name in kind.total.ids:
        assert all(id_ is name for share in kind.shares.values() for id_ in share.index if id_ == name)
        assert all(id_ is name for share in kind.shares.values() for id_ in share.ids if id_ == name)


@given(events, st.integers(1, 40))
def test_partitions_that_are_counted_together_have_what_each_has_alone(log: Events, at_once: int) -> None:
    together = counted(log, at_once).kinds["video"]
    for partition in range(3):
        alone = counted([event for event in log if event[0] == partition], 1).kinds["video"]
        now_ms = START + 200 * HOUR
        share = together.share(partition)
        assert share.ids == alone.total.ids
        assert share.first_ms.values().tolist() == alone.total.first_ms.values().tolist()
        np.testing.assert_allclose(share.at(now_ms), alone.total.at(now_ms), rtol=1e-9)


@given(events)
def test_the_total_is_the_sum_over_all_events(log: Events) -> None:
    signals = counted(log)
    kind = signals.kinds["video"]
    assert signals.now_ms == max((START + h * HOUR for _, _, h in log), default=0)
    now_ms = signals.now_ms
    expected: dict[str, list[float]] = {}
    for _, item, hours in log:
        so_far = expected.setdefault(item, [0.0] * len(HALF_LIVES))
        for k, half_life in enumerate(HALF_LIVES):
            so_far[k] += 2.0 ** (-(now_ms - START - hours * HOUR) / half_life)
    found = dict(zip(kind.total.ids, kind.total.at(now_ms), strict=True))
    assert found.keys() == expected.keys()
    for item, counts in expected.items():
        np.testing.assert_allclose(found[item], counts, rtol=1e-9)
    assert first_events(kind) == {i: START + min(h for _, j, h in log if j == i) * HOUR for i in expected}


@given(events, st.randoms(), st.integers(1, 8))
def test_arrival_in_any_order_and_in_any_slices_is_the_same(log: Events, order: random.Random, at_once: int) -> None:
    shuffled = log.copy()
    order.shuffle(shuffled)
    one, other = counted(log), counted(shuffled, at_once)
    assert figures(one.kinds["video"], one.now_ms) == figures(other.kinds["video"], one.now_ms)
    assert first_events(one.kinds["video"]) == first_events(other.kinds["video"])


@given(events, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=12), st.randoms())
def test_workers_that_tell_each_other_have_what_one_worker_has(
    log: Events, told: list[tuple[int, int]], order: random.Random
) -> None:
    """Each partition has its own worker; shares are told at any moments, the last ones at the end in any order."""
    workers = [Signals(HALF_LIVES) for _ in range(3)]
    listener = Signals(HALF_LIVES)
    for number, (partition, item, hours) in enumerate(log):
        workers[partition].add("video", {partition: ([item], [START + hours * HOUR])})
        for which, when in told:
            if when == number:
                send(workers[which], listener, which, max(workers[which].now_ms, START))
    whole = counted(log)
    last = list(range(3))
    order.shuffle(last)
    for partition in last:
        send(workers[partition], listener, partition, workers[partition].now_ms)
    assert figures(listener.kinds["video"], whole.now_ms) == figures(whole.kinds["video"], whole.now_ms)
    assert first_events(listener.kinds["video"]) == first_events(whole.kinds["video"])


@given(events, events)
def test_whoever_takes_a_partition_over_goes_on_from_its_share(before: Events, after: Events) -> None:
    first = counted(before)
    second = Signals(HALF_LIVES)
    for partition in range(3):
        send(first, second, partition, first.now_ms)
    for partition, item, hours in after:
        second.add("video", {partition: ([item], [START + hours * HOUR])})
    whole = counted(before + after)
    assert figures(second.kinds["video"], whole.now_ms) == figures(whole.kinds["video"], whole.now_ms)


@given(events)
def test_what_nobody_touches_is_dropped_and_comes_back_as_new(log: Events) -> None:
    signals = counted(log)
    kind = signals.kinds["video"]
    later = signals.now_ms + 24 * HOUR * int(np.log2(max(len(log), 1) / FADED) + 2)
    dropped = [kind.forget(partition, later) for partition in (0, 1, 2, None)]
    for partition in range(3):
        assert sorted(dropped[partition]) == sorted({i for p, i, _ in log if p == partition})
        assert len(kind.share(partition)) == 0
    assert len(kind.total) == 0
    signals.add("video", {1: (["a", "a"], [later, later])})
    assert figures(kind, later) == {"a": [2.0, 2.0]}


def test_beyond_the_most_the_weakest_go() -> None:
    signals = Signals(HALF_LIVES)
    ids = [f"i{n}" for n in range(100)]
    for n, id_ in enumerate(ids):
        signals.add("comment", {0: ([id_] * (1 + n), [START] * (1 + n))})
    kind = signals.kinds["comment"]
    dropped = kind.forget(0, START, most=80)
    assert dropped == ids[:40]
    assert kind.share(0).ids == ids[40:]
    assert kind.share(0).at(START)[:, 0].tolist() == [41.0 + n for n in range(60)]
    assert kind.forget(0, START, most=80) == []


def test_a_share_of_nothing_takes_the_place_of_one_of_something() -> None:
    signals = Signals(HALF_LIVES)
    signals.add("video", {0: (["a"], [START])})
    signals.add("video", {1: (["a"], [START])})
    kind = signals.kinds["video"]
    kind.replace(0, ["a"], np.zeros((1, 2)), START, np.array([NEVER_MS]))
    assert figures(kind, START) == {"a": [1.0, 1.0]}


@given(st.lists(st.integers(-3, 3), max_size=30), st.integers(1, 12))
def test_of_equal_values_the_later_are_taken(values: list[int], count: int) -> None:
    at = np.array(values, np.float64)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], -i))[:count]
    assert best_first(at, count).tolist() == expected
    assert top(at, count).tolist() == sorted(expected)
