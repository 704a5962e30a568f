from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime import choice
from model_runtime.candidates import _Digests
from model_runtime.items import encode_items
from model_runtime.live_ranker import Part, Ranked
from model_runtime.names import Names

IDS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)
SCORES = st.integers(-(10**8), 10**8).map(lambda k: k / 10**5) | st.sampled_from([0.0, 1e-5, -1e-5, 5e3, 9.99999, 10.0])


@pytest.fixture(autouse=True)
def _compiled() -> None:
    choice.wait()
    assert choice.module() is not None


def _names(ids: list[str], late: int) -> Names:
    names = Names(np.array(ids[late:] or ["other"], dtype=object))
    for id_ in ids[:late]:
        names.append(id_)
    return names


@given(IDS, st.integers(0, 12), st.data())
def test_lists_are_what_the_encoder_writes(ids: list[str], late: int, data: st.DataObject) -> None:
    names = _names(ids, late)
    lists = [
        Ranked(np.array(rows, np.intp), np.array([data.draw(SCORES) for _ in rows], np.float64), None)
        for rows in data.draw(st.lists(st.lists(st.integers(0, len(names) - 1), max_size=5), max_size=4))
    ]
    wanted = [encode_items(names.of(one.rows), (one.scores + 0.0).tolist()) for one in lists]
    given_ = names.items(lists)
    small = [abs(one.scores[one.scores != 0]).min(initial=1) < 1e-3 for one in lists]  # there it may write 1e-5
    assert [a == b or s for a, b, s in zip(given_, wanted, small, strict=True)] == [True] * len(lists)
    for text, one in zip(given_, lists, strict=True):
        items = eval(text)  # what JSON and Python agree on: no true, false, or null in it
        assert [item["id"] for item in items] == names.of(one.rows)
        assert [item["score"] for item in items] == one.scores.tolist()


def test_ids_that_come_later_are_packed_once_they_are_needed() -> None:
    names = Names(np.array(["a"], dtype=object))
    for number in range(3000):
        names.append(f'new "{number}"')
        if number % 700 == 0:
            rows = np.array([0, number + 1])
            assert names.items([Ranked(rows, np.array([1.0, 0.5]), None)]) == [encode_items(names.of(rows), [1.0, 0.5])]


class Growing(list[str]):
    """Gets one more at the moment when somebody looks."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if len(self) < 40:
            self.append(f"n{len(self)}")
        return found


def test_ids_that_come_while_others_are_packed_are_not_lost() -> None:
    names = Names(np.array(["a"], dtype=object))
    names._late = Growing(["n0"])
    for _ in range(20):
        known = len(names) - 1
        names.items([Ranked(np.array([known]), np.array([0.5]), None)])
    rows = np.arange(1, 20)
    assert names.items([Ranked(rows, np.zeros(19), None)]) == [encode_items([f"n{i}" for i in range(19)], [0.0] * 19)]


def test_what_compiled_code_does_not_write_the_encoder_does() -> None:
    names = Names(np.array(["a", "b"], dtype=object))
    rows = np.array([1, 0])
    odd, good, large = (Ranked(rows, np.array(scores), None) for scores in ([0.5, 1 / 3], [1.0, 0.25], [1e12, 0.0]))
    wanted = [encode_items(["b", "a"], one.scores.tolist()) for one in (odd, good, large)]
    assert names.items([odd, good, large]) == wanted
    part = Part(0.5, 0.25, ("nearest",))
    (text,) = names.items([Ranked(rows, np.array([1.0, 0.5]), [part, part])])
    assert b'"sources":["nearest"]' in text
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            names.items([good, Ranked(rows, np.array([bad, 0.0]), None)])


DIGESTS = st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1]), max_size=40)


@given(DIGESTS, st.lists(DIGESTS, max_size=4), st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=5))
def test_digests_are_found(first: list[int], later: list[list[int]], asked: list[list[int]]) -> None:
    digests = _Digests(np.array(first, np.uint32))
    known = list(first)
    for some in later:
        digests.extend(np.array(some, np.uint32))
        known += some
    # of what is known, and what is not
    wanted = [[known[n % len(known)] if known and n % 3 else n for n in user] for user in asked]
    flat = np.array([digest for user in wanted for digest in user], np.uint32)
    sizes = np.array([len(user) for user in wanted], np.int64)
    own = np.arange(len(wanted), dtype=np.int64)[:, None]
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(choice, "module", lambda: None)
            found = digests.find(own, flat, sizes)
        assert found[:, 0].tolist() == list(range(len(wanted)))
        for rows, user in zip(found[:, 1:].tolist(), wanted, strict=True):
            mine = [row for digest in user for row, other in enumerate(known) if other == digest]
            assert sorted(row for row in rows if row >= 0) == sorted(mine)
