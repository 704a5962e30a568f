"""Compiled choosing gives what sorting everything gives, and what is ranked without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_model import make_model

from model_runtime import choice
from model_runtime.choice import Choice
from model_runtime.nearest import Nearest
from model_runtime.rows import Table
from model_runtime.scorer import Request, Scorer

choice_kernel = pytest.importorskip("model_runtime.choice_kernel", reason="needs Numba", exc_type=ImportError)
DIM = 3


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    choice.wait()


def table_of(rng: np.random.Generator, bundled: int, late: int) -> Table:
    """Of few distinct vectors, so that ties are common, and some of length zero."""
    vectors = rng.integers(-1, 2, (bundled + late, DIM)).astype(np.float32)
    table = Table(vectors[:bundled])
    table.late.extend(vectors[bundled:])
    return table


def sorted_out(
    table: Table, preference: np.ndarray, rows: Sequence[int], count: int, cosine: bool
) -> tuple[list[int], list[float]]:
    vectors = table.take(np.array(rows, np.int64)).astype(float).reshape(len(rows), DIM)
    scores = vectors @ preference.astype(float)
    if cosine:
        lengths = np.linalg.norm(vectors, axis=1)
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    ranked = sorted(zip((-scores.round(5)).tolist(), rows, strict=True))[:count]
    return [row for _, row in ranked], [-score for score, _ in ranked]


@given(st.data(), st.integers(0, 10**6), st.booleans())
def test_the_best_of_some_rows(data: st.DataObject, seed: int, cosine: bool) -> None:
    rng = np.random.default_rng(seed)
    bundled, late, users, count = (data.draw(st.integers(*span)) for span in ((1, 30), (0, 10), (1, 4), (1, 6)))
    table, everything = table_of(rng, bundled, late), bundled + late
    chooser = Choice(table)
    for _ in range(2):  # what one call leaves behind must not matter to the next
        alive = rng.random(data.draw(st.integers(1, everything))) < 0.8  # rows may come while a batch is scored
        beside = rng.permutation(everything)[: data.draw(st.integers(0, 3))]
        rest = np.setdiff1d(np.arange(everything), beside)
        near = np.full((users, data.draw(st.integers(0, len(rest) + 2))), -1)
        for row in near:
            some = rng.permutation(rest)[: rng.integers(0, near.shape[1] + 1)]
            row[rng.permutation(near.shape[1])[: len(some)]] = some
        excluded = rng.integers(-1, everything + 5, (users, data.draw(st.integers(0, 6))))
        preferences = rng.integers(-2, 3, (users, DIM)).astype(np.float32)
        found, refused = chooser.best(preferences, near, alive, count, beside=beside, excluded=excluded, cosine=cosine)
        for user, mine in enumerate(found):
            barred = set(excluded[user].tolist())
            allowed = [
                row
                for row in [*near[user].tolist(), *beside.tolist()]
                if 0 <= row < len(alive) and alive[row] and row not in barred
            ]
            wanted, scores = sorted_out(table, preferences[user], allowed, count, cosine)
            assert refused[user] == sum(
                row in barred and 0 <= row < len(alive) and alive[row] for row in [*near[user], *beside]
            )
            assert mine is not None
            np.testing.assert_allclose(mine[1], scores, rtol=0, atol=1e-9)
            assert mine[0].tolist() == wanted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 6000])
def test_a_user_whose_scores_are_no_numbers_or_huge_is_left_to_others(value: float) -> None:
    table = Table(np.ones((5, DIM), np.float32))
    preferences = np.ones((2, DIM), np.float32)
    preferences[0, 1] = value
    (first, second), _ = Choice(table).best(preferences, np.arange(5)[None].repeat(2, 0), np.ones(5, bool), 2)
    assert first is None
    assert second is not None
    assert second[0].tolist() == [0, 1]


def test_scorers_rank_alike_with_compiled_code_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(3)
    scorer = Scorer(make_model(3000, 9000, dim=8).write(tmp_path / "b"), top_videos=20, top_comments=3)
    scorer.nearest = Nearest(scorer.candidates, 20, exact_up_to=1000, recall=0.9)

    def request() -> Request:
        watched, liked = ([f"{kind}{i}" for i in rng.integers(0, 3000, 4)] for kind in "vc")
        return Request(watched, watched, liked, current_video=watched[-1])

    for _ in range(1024 // 64):
        scorer.score([request() for _ in range(64)])
    scorer.nearest.wait()
    for at in range(0, 60, 2):  # some comments and videos go, some come
        scorer.candidates.set_comment(f"c{at}", False)
        scorer.candidates.add_comment(f"late{at}", f"v{at % 7}", rng.normal(size=8).astype(np.float32))
        scorer.candidates.add_video(f"late{at}", rng.normal(size=8).astype(np.float32))
    requests = [request() for _ in range(64)]
    asked: list[Any] = []
    monkeypatch.setattr(Choice, "best", _counted(Choice.best, asked))
    compiled = scorer.score(requests)
    assert len(asked) in (2, 3)  # comments and videos once for all 64, or again for those who are barred from many
    before = len(asked)
    monkeypatch.setattr(Choice, "ready", False)
    for one, other in zip(scorer.score(requests), compiled, strict=True):
        np.testing.assert_allclose(one.video_scores, other.video_scores, rtol=0, atol=1.01e-5)
        np.testing.assert_allclose(one.comment_scores, other.comment_scores, rtol=0, atol=1.01e-5)
        assert len(set(one.video_ids) & set(other.video_ids)) >= 19
        assert len(one.comment_ids) == len(other.comment_ids)
    assert len(asked) == before
    assert len(choice_kernel.choose.signatures) == 1  # all of it was compiled ahead


def _counted(best: Any, calls: list[Any]) -> Any:
    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return best(*args, **options)

    return counted
