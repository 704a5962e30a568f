"""The catalog after training: what is new or changed is ranked by its text, the rest stays as training made it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import make_model

from model_runtime.arrivals import Arrivals, CommentEntry, Entry, VideoEntry
from model_runtime.bundle import Bundle
from model_runtime.candidates import Candidates
from model_runtime.ids import text_digest
from model_runtime.scorer import Request, Scorer
from model_runtime.text import Student

MODEL = make_model(12, 30, seed=6)
TITLES = [f"title {i}" for i in range(12)]
TEXTS = [f"what somebody said, {i}" for i in range(30)]
STAGE = MODEL.video_ids[MODEL.arrays["comment_video"][4]]  # c4 is under it
RNG = np.random.default_rng(8)
STUDENT, OTHER = (
    Student(
        RNG.integers(-127, 128, (1 << 10, MODEL.dim)).astype(np.int8),
        np.full(1 << 10, 0.01, np.float32),
        RNG.normal(size=(MODEL.dim, MODEL.dim)).astype(np.float32),
        RNG.normal(size=MODEL.dim).astype(np.float32),
    )
    for _ in range(2)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    digests = {
        "video_text_digests": np.array(list(map(text_digest, TITLES)), np.uint32),
        "comment_text_digests": np.array(list(map(text_digest, TEXTS)), np.uint32),
    }
    folder = tmp_path_factory.mktemp("bundle") / "b"
    return MODEL.write(folder, arrays=MODEL.arrays | digests, student=STUDENT).path


@pytest.fixture
def scorer(folder: Path) -> Scorer:
    return Scorer(Bundle.open(folder), top_videos=20, top_comments=20)


def title_of(candidates: Candidates, video: str) -> np.ndarray:
    return candidates.title_vectors.take(np.array([candidates.video_index[video]]))[0]


def text_of(candidates: Candidates, comment: str) -> np.ndarray:
    return candidates.comments.vectors.take(np.array([candidates.comments.index[comment]]))[0]


def test_a_new_video_is_recommended_for_its_title(scorer: Scorer) -> None:
    (before,) = scorer.score([Request(["v1", "v2"])])
    assert Arrivals(scorer.candidates).apply([VideoEntry("new", "a tale of two cities")]) == []
    (after,) = scorer.score([Request(["v1", "v2"])])
    assert [v for v in after.video_ids if v != "new"] == before.video_ids
    assert "new" in after.video_ids
    candidates = scorer.candidates
    expected = STUDENT.encode(["a tale of two cities"])[0]
    np.testing.assert_allclose(title_of(candidates, "new"), expected, atol=1e-6)
    assert not candidates.id_vectors.take(np.array([candidates.video_index["new"]])).any()
    assert not candidates.comment_vectors.take(np.array([candidates.video_index["new"]])).any()


def test_new_comments_are_recommended_under_new_and_old_videos(scorer: Scorer) -> None:
    arrivals = Arrivals(scorer.candidates)
    # A comment may be read before the video that it is under.
    arrivals.apply([CommentEntry("late", "first!", "new"), CommentEntry("fresh", "well said", STAGE, 3, 7)])
    arrivals.apply([VideoEntry("new", "a new video")])
    under_new, under_stage = scorer.score([Request(current_video="new"), Request(current_video=STAGE)])
    assert under_new.comment_ids == ["late"]
    assert {"fresh", "c4"} <= set(under_stage.comment_ids)
    np.testing.assert_allclose(text_of(scorer.candidates, "late"), STUDENT.encode(["first!"])[0], atol=1e-6)


def test_histories_of_new_items_count_by_their_text(scorer: Scorer) -> None:
    user = Request(["new"], ["new"], ["late"])
    (blind,) = scorer.score([user])
    Arrivals(scorer.candidates).apply([VideoEntry("new", "a new video"), CommentEntry("late", "first!", "new")])
    (seeing,) = scorer.score([user])
    assert blind.video_scores != seeing.video_scores
    assert "new" not in seeing.video_ids


def test_what_training_knew_keeps_the_trainers_vector(scorer: Scorer) -> None:
    arrivals = Arrivals(scorer.candidates)
    (before,) = scorer.score([Request(["v1"], current_video=STAGE)])
    arrivals.apply([VideoEntry(v, t) for v, t in zip(MODEL.video_ids, TITLES, strict=True)])
    arrivals.apply([CommentEntry(f"c{i}", text, STAGE, i, i) for i, text in enumerate(TEXTS)])
    assert arrivals.encoded == 0
    assert scorer.score([Request(["v1"], current_video=STAGE)]) == [before]
    assert (scorer.candidates.additions, scorer.candidates.edits) == (0, 0)


def test_a_changed_text_is_encoded_and_a_restored_one_is_the_trainers_again(scorer: Scorer) -> None:
    candidates, arrivals = scorer.candidates, Arrivals(scorer.candidates)
    arrivals.apply([VideoEntry("v3", "another title"), CommentEntry("c4", "edited", STAGE)])
    np.testing.assert_allclose(title_of(candidates, "v3"), STUDENT.encode(["another title"])[0], atol=1e-6)
    np.testing.assert_allclose(text_of(candidates, "c4"), STUDENT.encode(["edited"])[0], atol=1e-6)
    assert arrivals.encoded == candidates.edits == 2
    arrivals.apply([VideoEntry("v3", "another title"), CommentEntry("c4", "edited", STAGE, likes=9)])
    assert arrivals.encoded == candidates.edits == 2
    arrivals.apply([VideoEntry("v3", TITLES[3]), CommentEntry("c4", TEXTS[4], STAGE)])
    assert np.array_equal(title_of(candidates, "v3"), MODEL.arrays["video_title_vectors"][3])
    assert np.array_equal(text_of(candidates, "c4"), MODEL.arrays["comment_vectors"][4])
    assert arrivals.encoded == 2
    assert candidates.alive_videos() == 12
    assert candidates.alive_comments() == 30


_ids = st.sampled_from(["v1", "v3", "new1", "new2"])
_entries = st.lists(
    st.builds(VideoEntry, _ids, st.sampled_from([None, "", TITLES[1], TITLES[3], "x", "other"]))
    | st.builds(
        CommentEntry,
        st.sampled_from(["c4", "late1", "late2"]),
        st.sampled_from([None, "", TEXTS[4], "x", "other"]),
        st.just(STAGE),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(_entries, st.integers(1, 5))
def test_the_last_entry_of_an_item_decides(folder: Path, entries: list[Entry], size: int) -> None:
    candidates = Candidates(Bundle.open(folder))
    arrivals = Arrivals(candidates)
    for start in range(0, len(entries), size):
        arrivals.apply(entries[start : start + size])
    last: dict[str, Entry] = {entry.id: entry for entry in entries}
    last_text: dict[str, str] = {entry.id: entry.text for entry in entries if entry.text is not None}
    trained = dict(zip(MODEL.video_ids, TITLES, strict=True)) | {f"c{i}": text for i, text in enumerate(TEXTS)}
    dead = [entry for entry in last.values() if entry.text is None and entry.id in {*trained, *last_text}]
    videos = {v for v in (*MODEL.video_ids, *last_text) if v.startswith(("v", "new"))}
    assert candidates.alive_videos() == len(videos) - sum(isinstance(entry, VideoEntry) for entry in dead)
    for id_, text in last_text.items():
        is_video = isinstance(last[id_], VideoEntry)
        vector = title_of(candidates, id_) if is_video else text_of(candidates, id_)
        if trained.get(id_) == text:
            arrays = MODEL.arrays["video_title_vectors" if is_video else "comment_vectors"]
            assert np.array_equal(vector, arrays[int(id_[1:])])
        else:
            np.testing.assert_allclose(vector, STUDENT.encode([text])[0], atol=1e-6)


def test_comments_have_a_student_of_their_own_where_the_bundle_has_one(tmp_path: Path) -> None:
    bundle = MODEL.write(tmp_path / "b", student=STUDENT, comment_student=OTHER)
    candidates = Candidates(bundle)
    arrivals = Arrivals(candidates)
    arrivals.apply(
        [VideoEntry("new", "the same"), CommentEntry("late", "the same", "new"), VideoEntry("other", "another")]
    )
    np.testing.assert_allclose(title_of(candidates, "new"), STUDENT.encode(["the same"])[0], atol=1e-6)
    np.testing.assert_allclose(text_of(candidates, "late"), OTHER.encode(["the same"])[0], atol=1e-6)
    np.testing.assert_allclose(title_of(candidates, "other"), STUDENT.encode(["another"])[0], atol=1e-6)
    assert arrivals.encoded == 3
    again = MODEL.write(tmp_path / "c", student=bundle.student, comment_student=bundle.comment_student)
    assert again.manifest.files == bundle.manifest.files


def test_a_bundle_without_a_student_tells_what_it_can_not_recommend(tmp_path: Path) -> None:
    scorer = Scorer(MODEL.write(tmp_path / "b"))
    new, late = VideoEntry("new", "a new video"), CommentEntry("late", "first!", STAGE)
    entries = [new, VideoEntry("v1", "changed"), late, VideoEntry("v2", None), VideoEntry("gone", None)]
    assert Arrivals(scorer.candidates).apply(entries) == [new, late]
    (ranking,) = scorer.score([Request()])
    assert set(ranking.video_ids) == set(MODEL.video_ids) - {"v2"}


def test_the_bundle_keeps_student_and_digests(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.student is not None
    assert np.array_equal(bundle.student.encode(["any"]), STUDENT.encode(["any"]))
    assert bundle.video_text_digests is not None
    assert bundle.video_text_digests.tolist() == list(map(text_digest, TITLES))
    again = MODEL.write(tmp_path / "b", arrays=bundle.arrays, student=bundle.student)
    assert again.manifest.files == bundle.manifest.files
