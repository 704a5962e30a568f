"""Hashed features: the same for a text wherever and with whatever it is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.hashing import MAX_CHARACTERS, features

_texts = st.lists(
    st.text(max_size=40) | st.sampled_from(["", " ", "a film", "你好世界", "Ａ ﬁlm", "İ", "\0", "e\u0301"])
)


def buckets(text: str, bits: int = 30) -> list[int]:
    return features([text], bits).buckets.tolist()


@given(_texts)
def test_a_text_has_the_same_features_alone_as_in_a_batch(texts: list[str]) -> None:
    found = features(texts, 16)
    assert found.starts.tolist()[0] == 0
    assert found.starts[-1] == len(found.buckets)
    for i, text in enumerate(texts):
        assert found.buckets[found.starts[i] : found.starts[i + 1]].tolist() == buckets(text, 16)


@given(st.text(), st.integers(1, 30))
def test_buckets_are_in_range(text: str, bits: int) -> None:
    found = features([text], bits).buckets
    assert np.all(found >= 0)
    assert np.all(found < 1 << bits)


def test_features_never_change() -> None:
    """They are part of a trained student: a change needs another FEATURES_VERSION."""
    known = {
        "Hi you": [4399, 6805, 19764, 20850, 24070, 34414, 34485, 41729, 42857, 45645, 51589, 54241, 57704],
        "你好": [8686, 11555, 12112, 16692, 28967, 46556, 53664, 62024],
    }
    assert {text: sorted(buckets(text, 16)) for text in known} == known


@pytest.mark.parametrize(
    ("one", "other"),
    [("a  film\n", "a film"), ("ＦＩＬＭ", "FILM"), ("cafe\u0301", "café"), ("a\0film", "a film")],
)
def test_ways_of_writing_the_same(one: str, other: str) -> None:
    assert buckets(one) == buckets(other)


def test_case_is_a_part_of_the_features_only() -> None:
    one, other = set(buckets("Great Film")), set(buckets("great film"))
    assert one != other
    assert len(one & other) > len(one | other) / 2


def test_chinese_is_read_by_characters() -> None:
    one, other = set(buckets("我喜欢这部电影")), set(buckets("这部电影不错"))
    assert len(one & other) >= 4 + 4 + 3  # characters, as written and in lower case; pairs


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0"])
def test_nothing_has_no_features(text: str) -> None:
    assert buckets(text) == []


def test_pieces_do_not_cross_words_nor_texts() -> None:
    assert set(buckets("ab cd")) & set(buckets("xb cy")) == set()
    both = features(["ab", "cd"], 30)
    assert set(both.buckets.tolist()) < set(buckets("ab cd"))


def test_of_a_long_text_the_beginning_is_read() -> None:
    text = "word " * MAX_CHARACTERS
    assert buckets(text) == buckets(text[:MAX_CHARACTERS])
    assert len(np.unique(buckets(text))) < 20
