"""Videos and comments that appear after training are recommended, encoded, and removed like the bundle's own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import Model, assert_ranked, brute_force, make_model

from model_runtime.bundle import Bundle
from model_runtime.candidates import Candidates
from model_runtime.comments import MOST
from model_runtime.ids import video_digest
from model_runtime.jobs import Encoded
from model_runtime.rows import Column
from model_runtime.scorer import Request, Scorer

MODEL = make_model(12, 30, seed=6)
TOLERANCE = 5e-5
RNG = np.random.default_rng(8)
#: titles and texts to choose from
VECTORS = RNG.normal(size=(6, MODEL.dim)).astype(np.float32)
LATE_VIDEOS = ["late0", "late1", "v3"]
LATE_COMMENTS = ["fresh0", "fresh1", "fresh2", "c4"]


class Mirror:
    """The same catalog, built up as plain lists: what a bundle would hold that was trained with all of it."""

    def __init__(self) -> None:
        self.videos = dict(enumerate(MODEL.video_ids))
        self.arrays = {name: list(array) for name, array in MODEL.arrays.items()}
        self.video_ids, self.comment_ids = list(MODEL.video_ids), list(MODEL.comment_ids)
        self.under = [MODEL.video_ids[v] for v in MODEL.arrays["comment_video"]]
        self.dead_videos: set[str] = set()
        self.dead_comments: set[str] = set()

    def add_video(self, id_: str, title: np.ndarray) -> None:
        self.dead_videos.discard(id_)
        if id_ not in self.video_ids:
            self.video_ids.append(id_)
            for array in self.arrays:
                if array.startswith("video"):
                    self.arrays[array].append(np.zeros(MODEL.dim, np.float32))
        at = self.video_ids.index(id_)
        self.arrays["video_title_vectors"][at] = title
        vector = self.arrays["video_id_vectors"][at] + title
        self.arrays["video_vectors"][at] = vector / np.linalg.norm(vector)

    def add_comment(self, id_: str, video: str, vector: np.ndarray) -> None:
        self.dead_comments.discard(id_)
        if id_ in self.comment_ids:
            self.arrays["comment_vectors"][self.comment_ids.index(id_)] = vector
        else:
            self.comment_ids.append(id_)
            self.under.append(video)
            self.arrays["comment_vectors"].append(vector)

    def model(self) -> Model:
        arrays = {name: np.array(rows) for name, rows in self.arrays.items()}
        # -1: its video never appeared
        at = {video: i for i, video in enumerate(self.video_ids)}
        arrays["comment_video"] = np.array([at.get(video, -1) for video in self.under])
        return replace(MODEL, arrays=arrays, video_ids=self.video_ids, comment_ids=self.comment_ids)


_vector = st.sampled_from(range(len(VECTORS)))
_video, _comment = st.sampled_from(LATE_VIDEOS), st.sampled_from(LATE_COMMENTS)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add video"), _video, _vector),
        st.tuples(st.just("add comment"), _comment, _vector),
        st.tuples(st.just("remove video"), _video, st.just(0)),
        st.tuples(st.just("remove comment"), _comment, st.just(0)),
        st.tuples(st.just("score"), _video, st.just(0)),
    ),
    max_size=14,
)
_UNDER = {"fresh0": "late0", "fresh1": "late0", "fresh2": "v3", "c4": MODEL.video_ids[MODEL.arrays["comment_video"][4]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("bundle") / "b").path


@settings(max_examples=60)
@given(_steps, st.lists(st.sampled_from([*LATE_VIDEOS, "v1"]), max_size=5), st.lists(_comment, max_size=4))
def test_a_grown_catalog_ranks_like_one_trained_with_it(
    folder: Path, steps: list[tuple[str, str, int]], videos: list[str], comments: list[str]
) -> None:
    scorer, mirror = Scorer(Bundle.open(folder), top_videos=8, top_comments=5), Mirror()
    candidates = scorer.candidates
    for kind, id_, vector in [*steps, ("score", "late0", 0), ("score", "v3", 0)]:
        if kind == "add video":
            candidates.add_video(id_, VECTORS[vector])
            mirror.add_video(id_, VECTORS[vector])
        elif kind == "add comment":
            candidates.add_comment(id_, _UNDER[id_], VECTORS[vector])
            mirror.add_comment(id_, _UNDER[id_], VECTORS[vector])
        elif kind == "remove video":
            if candidates.set_video(id_, False):
                mirror.dead_videos.add(id_)
        elif kind == "remove comment":
            if candidates.set_comment(id_, False):
                mirror.dead_comments.add(id_)
        else:
            barred = [video_digest("late1")] if vector else []
            request = Request(videos, [_UNDER[c] for c in comments], comments, id_, barred)
            (ranking,) = scorer.score([request])
            model = mirror.model()
            best_videos, best_comments = brute_force(model, request, mirror.dead_videos, mirror.dead_comments)
            for ids, scores, expected, top in (
                (ranking.video_ids, ranking.video_scores, best_videos, 8),
                (ranking.comment_ids, ranking.comment_scores, best_comments, 5),
            ):
                # equal vectors are frequent here, and rows of edited items are elsewhere: any order of equals will do
                order = [*ids, *(id_ for id_ in expected if id_ not in ids)]
                assert_ranked(ids, scores, expected, top, order, TOLERANCE)
    assert candidates.alive_videos() == len(mirror.video_ids) - len(mirror.dead_videos)
    assert candidates.alive_comments() == len(mirror.comment_ids) - len(mirror.dead_comments)


def test_a_late_video_is_barred_by_its_digest(folder: Path) -> None:
    scorer = Scorer(Bundle.open(folder))
    for number in range(40):
        scorer.candidates.add_video(f"late{number}", VECTORS[number % 6] + number)
        (ranking,) = scorer.score([Request(barred=[video_digest(f"late{number}"), video_digest("v2")])])
        assert set(ranking.video_ids) == {*MODEL.video_ids, *(f"late{i}" for i in range(number))} - {"v2"}


def test_an_unchanged_title_changes_nothing(folder: Path) -> None:
    candidates = Candidates(Bundle.open(folder))
    candidates.add_video("late", VECTORS[0])
    candidates.set_video("late", False)
    candidates.add_video("late", VECTORS[0])
    candidates.add_video("v1", MODEL.arrays["video_title_vectors"][1])
    assert (len(candidates), candidates.alive_videos()) == (13, 13)
    assert (candidates.additions, candidates.edits) == (1, 0)


@pytest.mark.parametrize("vector", [np.zeros(3), np.full(MODEL.dim, np.nan)])
def test_a_vector_that_does_not_fit_is_refused(folder: Path, vector: np.ndarray) -> None:
    candidates = Candidates(Bundle.open(folder))
    with pytest.raises(ValueError, match="x: a finite vector of 8 numbers"):
        candidates.add_video("x", vector)
    with pytest.raises(ValueError, match="x: a finite vector of 8 numbers"):
        candidates.add_comment("x", "v1", vector)
    assert len(candidates) == 12


def test_a_crowded_video_offers_its_most_liked_and_its_newest_comments(folder: Path) -> None:
    candidates = Candidates(Bundle.open(folder))
    under = len(candidates.comments_of("v1"))
    count = MOST + 200
    for i in range(count):
        # the more likes, the older
        candidates.add_comment(f"x{i}", "v1", VECTORS[0], likes=i, created_ms=10**12 - i)
    names = candidates.comments.names.of(candidates.comments_of("v1"))
    half = MOST // 2
    newest = [f"x{i}" for i in range(half)]
    assert sorted(names) == sorted([*newest, *(f"x{i}" for i in range(count - half, count))])
    for i in range(count):
        candidates.set_comment(f"x{i}", i < 5)
    assert len(candidates.comments_of("v1")) == under + 5


def test_scoring_goes_on_while_the_catalog_grows(folder: Path) -> None:
    scorer = Scorer(Bundle.open(folder), top_videos=5)
    done = threading.Event()
    failures: list[BaseException] = []

    def score() -> None:
        try:
            while not done.is_set():
                history = [f"late{i}" for i in range(0, len(scorer.candidates), 7)][-5:]
                (ranking,) = scorer.score([Request(history, history[:1], ["fresh3"][: len(history[:1])], "late1")])
                assert len(ranking.video_ids) == len(set(ranking.video_ids)) == 5
                assert not set(history) & set(ranking.video_ids)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    for i in range(4000):
        # a known one gets another title now and then
        scorer.candidates.add_video(f"late{i % 1500}", VECTORS[i % 6] * (1 + i))
        scorer.candidates.add_comment(f"fresh{i}", f"late{i % 3}", VECTORS[i % 6])
    done.set()
    thread.join()
    assert not failures, failures[0]
    assert scorer.candidates.alive_videos() == 12 + 1500


def test_a_title_that_changes_while_a_batch_is_scored_brings_nothing_watched_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(Bundle.open(folder), top_videos=20)
    encode = scorer.sessions.encode

    def then_change(requests: Sequence[Request]) -> Encoded:
        encoded = encode(requests)
        scorer.candidates.add_video("v0", VECTORS[0])
        scorer.candidates.add_video("late", VECTORS[1])
        return encoded

    monkeypatch.setattr(scorer.sessions, "encode", then_change)
    (ranking,) = scorer.score([Request(["v0", "late"])])
    assert not {"v0", "late"} & set(ranking.video_ids)
    assert "v1" in ranking.video_ids


@given(st.lists(st.integers(0, 3000), max_size=6))
def test_a_column_keeps_what_it_was_given_and_copies_it_seldom(sizes: list[int]) -> None:
    column = Column(2, np.int32)
    views, total, buffers = [], 0, set()
    for size in sizes:
        column.extend(np.arange(2 * total, 2 * (total + size), dtype=np.int32).reshape(-1, 2))
        total += size
        views.append(column.values())
        buffers.add(id(views[-1].base))
    for view in views:
        np.testing.assert_array_equal(view.ravel(), np.arange(view.size))
    assert len(column) == total
    assert len(buffers) <= 6
