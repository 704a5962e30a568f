"""Student against teacher on what came after training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import tastes
import torch

from offline_train.cold import STUDENT, TEACHER, AllAlike, UnknownFirst, cold_ranking, kept, with_students
from offline_train.corpus import Corpus, temporal_split
from offline_train.distill import DistillConfig
from offline_train.evaluation import evaluate
from offline_train.export import export, train_student, with_metrics
from offline_train.finetuning import finetune
from offline_train.finetuning_config import FinetuneConfig
from offline_train.reference import Reference
from offline_train.sr import SRConfig
from offline_train.text import text_vectors

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    log = tastes.log()
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    texts = text_vectors(log, cutoff_ms=split.valid_ms)
    config = FinetuneConfig(epochs=1, batch=64, threads=1)
    finetuned = finetune(corpus, split, texts, config, SRConfig(len(log.video_ids), dim=16, feedforward=32))
    quick = DistillConfig(bits=12, samples=5_000, learning_rate=5e-3, threads=1)
    student = train_student(finetuned, corpus, split, quick)
    bundle = export(finetuned, corpus, split, texts, tmp_path_factory.mktemp("cold") / "bundle", student=student)
    # Some of the tests need items that came late; which ones is all the same to them.
    first = log.first_seen_video.copy(), log.first_seen_comment.copy()
    first[0][::3] = first[1][::3] = split.valid_ms
    late = replace(log, first_seen_video=first[0], first_seen_comment=first[1])
    return late, replace(corpus, log=late), split, bundle


def test_only_what_came_later_has_the_students_vectors(parts):
    log, _, split, bundle = parts
    assert bundle.student is not None
    late = with_students(log, split, bundle, bundle.student, bundle.student)
    cold = log.first_seen_comment >= split.valid_ms
    assert np.array_equal(late.comment_vectors[~cold], bundle.comment_vectors[~cold])
    texts = [text for text, is_cold in zip(log.comment_texts, cold, strict=True) if is_cold]
    np.testing.assert_allclose(late.comment_vectors[cold], bundle.student.encode(texts), atol=1e-6)
    cold = log.first_seen_video >= split.valid_ms
    assert np.array_equal(late.video_vectors[~cold], bundle.video_vectors[~cold])
    np.testing.assert_allclose(np.linalg.norm(late.video_vectors[cold], axis=1), 1, atol=1e-5)
    assert np.array_equal(late.video_id_vectors, bundle.video_id_vectors)


def test_where_comments_have_their_own_map_they_have_their_own_student(parts, tmp_path):
    log, corpus, split, _ = parts
    config = FinetuneConfig(epochs=0, threads=1)
    texts = text_vectors(log, cutoff_ms=split.valid_ms)
    finetuned = finetune(corpus, split, texts, config, SRConfig(len(log.video_ids), dim=16, feedforward=32))
    finetuned.model.start_apart(
        torch.randn(16, 256, generator=torch.Generator().manual_seed(1)), finetuned.tables.comments
    )
    quick = DistillConfig(bits=12, samples=20_000, learning_rate=5e-3, threads=1)
    student = train_student(finetuned, corpus, split, quick)
    assert student.comments is not None
    assert student.metrics["comment_texts"] == student.metrics["texts"] > 50
    bundle = export(finetuned, corpus, split, texts, tmp_path / "bundle", student=student)
    assert bundle.comment_student is not None
    assert with_metrics(bundle, tmp_path / "again", {}).manifest.files == bundle.manifest.files
    late = with_students(log, split, bundle, bundle.student, bundle.comment_student)

    def cosines(one, other):
        return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)

    cold = log.first_seen_video >= split.valid_ms
    assert cosines(late.video_title_vectors[cold], bundle.video_title_vectors[cold]).mean() > 0.8
    cold = log.first_seen_comment >= split.valid_ms
    assert cosines(late.comment_vectors[cold], bundle.comment_vectors[cold]).mean() > 0.8


def test_cold_targets_are_ranked_with_both(parts):
    log, corpus, split, bundle = parts
    results = cold_ranking(log, corpus, split, bundle, protocols=("full",), threads=1)
    assert [(r.task, r.model) for r in results] == [(t, m) for t in ("video", "comment") for m in (TEACHER, STUDENT)]
    targets = corpus.samples.take(split.test)
    cold = log.first_seen_comment[targets.target_comment] >= split.valid_ms
    expected = int((cold & (targets.target_comment >= 0)).sum())
    assert sum(results[2].counts.values()) == expected > 0
    for share, error in kept(results).values():
        assert share > 0
        assert error >= 0


def test_the_same_vectors_keep_everything(parts):
    log, corpus, split, bundle = parts

    class Teacher:
        """Gives each text the vector that it has already."""

        def encode(self, texts):
            known = dict(zip(log.video_titles, bundle.video_title_vectors, strict=True))
            known |= dict(zip(log.comment_texts, bundle.comment_vectors, strict=True))
            return np.array([known[text] for text in texts]).reshape(len(texts), bundle.dim)

    results = cold_ranking(log, corpus, split, bundle, Teacher(), protocols=("full",), threads=1)
    assert all(share == pytest.approx(1, abs=0.02) for share, _ in kept(results).values())


def test_each_student_learns_every_text_in_its_own_space(parts, tmp_path):
    log, corpus, split, _ = parts
    texts = text_vectors(log, cutoff_ms=split.valid_ms)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(256, 256)))[0].astype(np.float32)
    crossed = texts.video @ turn, texts.comment
    two = replace(texts, comment=texts.comment @ turn, crossed=crossed)
    sr = SRConfig(len(log.video_ids), dim=16, feedforward=32)
    finetuned = finetune(corpus, split, two, FinetuneConfig(epochs=0, threads=1), sr)
    model = finetuned.model
    with torch.no_grad():
        model.comment_text.copy_(model.text.weight @ torch.from_numpy(turn))
        model.apart.fill_(True)
    quick = DistillConfig(bits=12, samples=5_000, learning_rate=5e-3, threads=1)
    student = train_student(finetuned, corpus, split, quick)
    # The comments' space is a turn of the titles', which their A takes back: both students are given the same vectors.
    assert student.comments.to_bytes() == student.student.to_bytes() or np.allclose(
        student.comments.encode(log.video_titles), student.student.encode(log.video_titles), atol=0.02
    )
    path = Reference.of(finetuned, corpus).save(tmp_path / "checkpoint.pt")
    for kept_, given in zip(Reference.load(path).tables.crossed, crossed, strict=True):
        assert np.array_equal(kept_.numpy(), given), "a student distilled after a kill is given the same"


def test_without_a_student_there_is_nothing_to_compare(parts):
    log, corpus, split, bundle = parts
    with pytest.raises(ValueError, match="has no student"):
        cold_ranking(log, corpus, split, replace(bundle, student=None))


def test_what_training_did_not_know_comes_first_and_is_in_order_among_itself():
    class Model:
        name, task = "m", "video"

        def known_videos(self):
            return np.array([True, False, True, False, True])

        def scores(self, queries):
            return np.array([[3.0, -2.0, 1.0, 2.0, -np.inf], [0.0, -np.inf, 5.0, -1.0, 4.0]], np.float32)

    found = UnknownFirst(Model())
    assert (found.name, found.task) == ("m, unknown first", "video")
    scores = found.scores(None)
    assert [np.argsort(-row, kind="stable").tolist() for row in scores] == [[3, 1, 0, 2, 4], [3, 2, 4, 0, 1]]
    assert np.isneginf(scores).tolist() == [[False] * 4 + [True], [False, True, False, False, False]]

    class Other:
        name, task = "other", "video"

        def scores(self, queries):
            return np.array([[5.0, 1.0, 4.0, 2.0, 3.0]])

    found = UnknownFirst(Model(), Other())
    assert found.name == "other, unknown first"
    assert np.argsort(-found.scores(None)[0]).tolist() == [3, 1, 0, 2, 4], "new ones first, each part in that order"


def test_what_knows_no_more_than_which_videos_are_new_is_random_among_them(parts):
    log, corpus, split, _ = parts
    known = log.first_seen_video < split.valid_ms
    assert set(known.tolist()) == {False, True}
    model = SimpleNamespace(known_videos=lambda: known)
    (result,) = evaluate(log, corpus, split, [UnknownFirst(model, AllAlike(log))], protocols=("full",))
    assert result.model == "random, unknown first"
    new = result.ranks.above == 0
    assert set(new.tolist()) == {False, True}
    count = int(np.count_nonzero(~known))
    assert set(result.ranks.tied[new].tolist()) == set(result.ranks.above[~new].tolist()) == {count}
    assert set(result.ranks.tied[~new].tolist()) == {len(known) - count}
