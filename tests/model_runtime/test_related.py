"""What goes together with the last videos of a history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_model import make_model

from model_runtime.bundle import NEIGHBOURS, Bundle, write_bundle
from model_runtime.manifest import BundleError
from model_runtime.related import HALF_LIFE, POSITIONS, Neighbours, looked_up

VIDEOS = 7


@st.composite
def neighbours(draw: st.DrawFn) -> Neighbours:
    k = draw(st.integers(1, 4))
    lists = [draw(st.lists(st.integers(0, VIDEOS - 1), max_size=k, unique=True)) for _ in range(VIDEOS)]
    rows = np.array([[*found, *[-1] * (k - len(found))] for found in lists], np.int32)
    return Neighbours(rows, draw(st.integers(1, 9)) * (rows >= 0) / (2.0 + rows).astype(np.float32))


@given(neighbours(), st.lists(st.integers(-1, VIDEOS - 1), max_size=POSITIONS + 5))
def test_it_is_the_sum_over_the_last_positions(given_: Neighbours, history: list[int]) -> None:
    expected = np.zeros(VIDEOS)
    for age, video in enumerate(reversed(history[-POSITIONS:])):
        for row, weight in zip(given_.rows[video], given_.weights[video], strict=True):
            if video >= 0 and row >= 0:
                expected[row] += weight * 0.5 ** (age / HALF_LIFE)
    rows, values = given_.of(np.array(history, np.int32))
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert set(np.flatnonzero(expected)) <= set(rows.tolist())
    np.testing.assert_allclose(looked_up(np.arange(VIDEOS), rows, values), expected, rtol=1e-5)


def test_a_bundle_keeps_them_and_refuses_what_are_none(tmp_path: Path) -> None:
    plain = make_model(7, 9).write(tmp_path / "plain")
    assert plain.neighbours is None
    n = len(plain.video_ids)
    rows, weights = np.full((n, 2), -1, np.int32), np.zeros((n, 2), np.float32)
    rows[0], weights[0] = [1, 2], [0.5, 0.25]

    def written(name: str, **changed: np.ndarray) -> Bundle:
        arrays = dict(zip(NEIGHBOURS, (rows, weights), strict=True)) | changed
        return write_bundle(
            tmp_path / name,
            model=plain.manifest.model,
            history=plain.manifest.history,
            arrays=plain.arrays | arrays,
            ids={"video_ids": list(plain.video_ids), "comment_ids": list(plain.comment_ids)},
            encoder=plain.encoder_path.read_bytes(),
        )

    found = written("good").neighbours
    assert found is not None
    assert found.rows.tolist() == rows.tolist()
    assert found.weights.tolist() == weights.tolist()
    for number, (name, wrong) in enumerate(
        [
            (NEIGHBOURS[0], rows + n),
            (NEIGHBOURS[0], rows[:, :1]),
            (NEIGHBOURS[0], rows[:1]),
            (NEIGHBOURS[1], weights - 1),
            (NEIGHBOURS[1], weights * np.nan),
        ]
    ):
        with pytest.raises(BundleError, match="export"):
            written(f"bad{number}", **{name: wrong})
