"""An index finds what scoring everything finds, but for a stated share, while the catalog changes under it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from reference_model import make_model
from support import trained_vectors

from model_runtime import choice
from model_runtime.candidates import Candidates
from model_runtime.near_index import NearIndex
from model_runtime.nearest import Nearest
from model_runtime.rows import Table
from model_runtime.scorer import Request, Scorer

pytest.importorskip("faiss")

VIDEOS, DIM, COUNT = 6_000, 64, 50
VECTORS = trained_vectors.videos(VIDEOS)
PREFERENCES = trained_vectors.preferences(2048)
LATE = trained_vectors.videos(4000, seed=7)


@pytest.fixture(scope="module")
def bundle() -> Any:
    """As much of a bundle as candidates need; ids are zero, so that a video's vector is its title's."""
    zeros = np.zeros_like(VECTORS)
    return SimpleNamespace(
        video_ids=np.array([f"v{i}" for i in range(VIDEOS)], dtype=object),
        video_id_vectors=zeros,
        video_title_vectors=VECTORS,
        video_comment_vectors=zeros,
        video_vectors=VECTORS,
        comment_ids=np.empty(0, dtype=object),
        comment_vectors=np.zeros((0, DIM), np.float32),
        comment_video=np.empty(0, np.int32),
        manifest=SimpleNamespace(counts=SimpleNamespace(videos=VIDEOS)),
    )


def ready(candidates: Candidates, **options: Any) -> Nearest:
    """With an index."""
    nearest = Nearest(candidates, COUNT, exact_up_to=1000, **options)
    for start in range(0, 1024, 256):
        assert (
            search(nearest, PREFERENCES[start : start + 256]) is None
        )  # until there is an index, everything is scored
    nearest.wait()
    return nearest


def search(nearest: Nearest, preferences: np.ndarray, barred: list[list[int]] | None = None) -> Any:
    barred = barred or [[] for _ in preferences]
    excluded = np.full((len(barred), max(map(len, barred))), -1)
    for own, rows in zip(excluded, barred, strict=True):
        own[: len(rows)] = rows
    return nearest.search(preferences, lambda: excluded)


def exact(candidates: Candidates, preference: np.ndarray, barred: list[int]) -> tuple[np.ndarray, np.ndarray]:
    scores = candidates.vectors.take(np.arange(len(candidates))) @ preference
    scores[~candidates.alive()] = -np.inf
    scores[barred] = -np.inf
    rows = np.argsort(-scores)[:COUNT]
    return rows, scores[rows]


def assert_near(candidates: Candidates, found: Any, preferences: np.ndarray, barred: list[list[int]]) -> None:
    """As many as can be had, none that must not be, exact scores best first, and nearly all of the best."""
    shares = []
    alive = candidates.alive()
    for (rows, scores), preference, mine in zip(found, preferences, barred, strict=True):
        wanted, _ = exact(candidates, preference, mine)
        wanted = wanted[: np.count_nonzero(alive[wanted] & ~np.isin(wanted, mine))]
        there = int(alive.sum()) - len({row for row in mine if alive[row]})
        assert len(rows) == len(set(rows.tolist())) == min(COUNT, there)
        assert alive[rows].all()
        assert not set(rows.tolist()) & set(mine)
        np.testing.assert_allclose(scores, candidates.vectors.take(rows) @ preference, atol=1e-5)
        assert (np.diff(scores) <= 0).all()
        shares.append(len(np.intersect1d(rows, wanted)) / max(1, len(wanted)))
    assert np.mean(shares) >= 0.95, shares


def test_the_stated_recall_holds_for_other_users() -> None:
    rows = np.arange(VIDEOS)
    index = NearIndex(Table(VECTORS).take, rows, PREFERENCES[:1024], 100, recall=0.99, threads=1)
    assert index.recall >= 0.99
    found = index.search(PREFERENCES[1024:1280], 100, 0, 1)
    wanted = np.argsort(-(PREFERENCES[1024:1280] @ VECTORS.T), axis=1)[:, :100]
    assert np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(found, wanted, strict=True)]) >= 0.985


_changes = st.lists(
    st.tuples(st.sampled_from(["add", "add many", "remove", "come back", "retitle"]), st.integers(0, 10**6)), max_size=8
)


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])  # building takes seconds
@given(_changes, st.integers(8, 16), st.integers(0, 200), st.integers(0, 10**6))
def test_the_index_follows_the_catalog(
    bundle: Any, changes: list[tuple[str, int]], users: int, barred: int, seed: int
) -> None:
    candidates = Candidates(bundle)
    nearest = ready(candidates)
    rng = np.random.default_rng(seed)
    late, removed = 0, []
    for kind, number in changes:
        if kind in ("add", "add many"):
            for _ in range(1 if kind == "add" else 300):
                candidates.add_video(f"late{late}", LATE[late % len(LATE)])
                late += 1
        elif kind == "remove":
            removed += [f"v{at}" for at in rng.choice(VIDEOS, 150, replace=False)]
            for id_ in removed[-150:]:
                candidates.set_video(id_, False)
        elif kind == "come back":
            for id_ in removed:
                candidates.set_video(id_, True)
            removed.clear()
        else:
            candidates.add_video(f"v{number % VIDEOS}", LATE[number % len(LATE)])
        asked = PREFERENCES[1024 + seed % 512 :][:users]
        # what a user has seen is what the user would get
        seen = [exact(candidates, preference, [])[0][: barred % COUNT].tolist() for preference in asked]
        mine = [[*rows, *rng.integers(0, len(candidates), barred).tolist()] for rows in seen]
        found = search(nearest, asked, mine)
        if found is None:  # so much is new that everything is scored until it is in an index
            nearest.wait()
            found = search(nearest, asked, mine)
        assert_near(candidates, found, asked, mine)


def test_who_must_not_get_the_best_gets_the_next_ones(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is barred for long, then some users from more than the index was asked for: it is asked again for them."""
    choice.wait()
    candidates = Candidates(bundle)
    nearest = ready(candidates)
    preferences = PREFERENCES[:64]
    for _ in range(3):
        assert_near(candidates, search(nearest, preferences), preferences, [[] for _ in preferences])
    monkeypatch.setattr(nearest, "_exactly", lambda *_: pytest.fail("all were scored for one user"))
    barred: list[list[int]] = [[] for _ in preferences]
    for user, most in ((5, 450), (40, 3), (63, 420)):
        barred[user] = np.argsort(-(VECTORS @ preferences[user]))[:most].tolist()
    found = search(nearest, preferences, barred)
    assert_near(candidates, found, preferences, barred)
    for user in (5, 40, 63):
        wanted, _ = exact(candidates, preferences[user], barred[user])
        assert len(np.intersect1d(found[user][0], wanted)) >= 0.95 * COUNT


def test_an_index_that_is_mostly_dead_is_built_again(bundle: Any) -> None:
    candidates = Candidates(bundle)
    nearest = ready(candidates)
    asked, nothing = PREFERENCES[1024:1040], [[] for _ in range(16)]
    assert_near(candidates, search(nearest, asked), asked, nothing)
    candidates.keep_videos(f"v{i}" for i in range(2000))
    assert_near(candidates, search(nearest, asked), asked, nothing)  # from the old one
    nearest.wait()
    assert_near(candidates, search(nearest, asked), asked, nothing)
    assert nearest._ready is not None
    assert len(nearest._ready.near) == 2000
    candidates.set_video("v2999", True)
    candidates.add_video("new", VECTORS[17])
    found = search(nearest, np.stack([VECTORS[2999], VECTORS[17]]))
    assert found[0][0][0] == 2999
    assert set(found[1][0][:2]) == {17, VIDEOS}
    candidates.set_all_videos(True)
    assert search(nearest, asked) is None  # most of the catalog is not in it
    nearest.wait()
    assert_near(candidates, search(nearest, asked), asked, nothing)


def test_few_are_left_but_all_of_them_are_found(bundle: Any) -> None:
    candidates = Candidates(bundle)
    nearest = ready(candidates)
    candidates.keep_videos(f"v{i}" for i in range(30))
    asked = PREFERENCES[1024:1028]
    assert_near(candidates, search(nearest, asked), asked, [[] for _ in asked])


def test_without_faiss_everything_is_scored_and_the_log_says_how_to_get_it(
    bundle: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    nearest = ready(Candidates(bundle))
    assert search(nearest, PREFERENCES[:4]) is None
    assert nearest.recall is None
    assert [record.getMessage() for record in caplog.records if "pip install 'lsvcr[index]'" in record.getMessage()]


def test_an_index_that_finds_too_little_is_not_used(bundle: Any, caplog: pytest.LogCaptureFixture) -> None:
    nearest = ready(Candidates(bundle), recall=1.1)
    assert search(nearest, PREFERENCES[:4]) is None
    assert "all are scored for every user" in caplog.text


def test_a_scorer_ranks_from_the_index(tmp_path: Path) -> None:
    # Vectors of 8 numbers, so that nearly nothing is lost to the index.
    model = make_model(3000, 50, dim=8)
    scorer, plain = (Scorer(model.write(tmp_path / name), top_videos=20) for name in ("one", "other"))
    scorer.nearest = Nearest(scorer.candidates, 20, exact_up_to=1000, recall=0.9)
    rng = np.random.default_rng(3)

    def request() -> Request:
        watched = [f"v{i}" for i in rng.integers(0, 3000, 4)]
        return Request(watched, current_video=watched[-1])

    for _ in range(1024 // 64):
        scorer.score([request() for _ in range(64)])
    scorer.nearest.wait()
    requests = [request() for _ in range(64)]
    found, wanted = scorer.score(requests), plain.score(requests)
    assert scorer.nearest.recall is not None
    shares = []
    for one, other, asked in zip(found, wanted, requests, strict=True):
        assert len(one.video_ids) == 20
        assert not set(one.video_ids) & set(asked.videos)
        shares.append(len(set(one.video_ids) & set(other.video_ids)) / 20)
    assert np.mean(shares) > 0.85
