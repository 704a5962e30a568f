"""The ledger: a watermark never passes an unconfirmed record, whatever the order of confirmations."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.slices import Ledger, Slice

PLACE = ("video-views", 3)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5), st.integers(0, 4)), max_size=30),
    seed=st.integers(0, 2**32),
)
def test_watermark_is_the_settled_prefix(sizes: list[tuple[int, int, int]], seed: int) -> None:
    ledger = Ledger()
    slices: dict[tuple[str, int], list[Slice]] = {}
    to_settle: list[Slice] = []
    for number, records, work in sizes:
        place = ("t", number)
        begin = slices[place][-1].next_offset if place in slices else 0
        opened = ledger.open(place, records, begin + records)
        opened.waiting += work
        slices.setdefault(place, []).append(opened)
        to_settle += [opened] * (work + 1)
    random.Random(seed).shuffle(to_settle)
    for settled in to_settle:
        before = dict(ledger.watermarks)
        moved = ledger.settle(settled)
        assert moved == (ledger.watermarks != before)
        for place, opened_there in slices.items():
            prefix = 0
            for opened in opened_there:
                if opened.waiting > 0:
                    break
                prefix = opened.next_offset
            assert ledger.watermarks.get(place, 0) == prefix
        unsettled = sum(
            opened.records
            for place, opened_there in slices.items()
            for opened in opened_there
            if opened.next_offset > ledger.watermarks.get(place, 0)
        )
        assert ledger.records_in_flight == unsettled
    assert ledger.records_in_flight == 0


def test_a_slice_out_of_order_is_refused() -> None:
    ledger = Ledger()
    ledger.open(PLACE, 5, 5)
    with pytest.raises(ValueError, match="comes after"):
        ledger.open(PLACE, 2, 4)


def test_what_settles_after_a_revocation_moves_nothing() -> None:
    ledger = Ledger()
    opened = ledger.open(PLACE, 5, 5)
    ledger.clear()
    assert not ledger.settle(opened)
    assert ledger.watermarks == {}
    assert ledger.records_in_flight == 0
    again = ledger.open(PLACE, 5, 5)
    assert ledger.settle(again)
    assert ledger.watermarks == {PLACE: 5}
