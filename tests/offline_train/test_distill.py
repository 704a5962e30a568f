"""The student learns its teacher's vectors, and what texts that it has not read must look like."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from offline_train.distill import DistillConfig, agreement, distill

pytestmark = pytest.mark.train

WORDS = [f"{a}{b}" for a in ("stor", "harb", "viol", "glac", "copp", "orch") for b in ("m", "our", "in", "ier", "er")]
QUICK = DistillConfig(bits=12, samples=12_000, learning_rate=5e-3, threads=1)


def corpus(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of four words, and a teacher that adds up what words mean: unit length, then an offset and a scale."""
    rng = np.random.default_rng(seed)
    meaning = np.random.default_rng(7).normal(size=(len(WORDS), 16))
    drawn = rng.integers(len(WORDS), size=(count, 4))
    vectors = meaning[drawn].sum(1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) + 0.1
    return [" ".join(WORDS[i] for i in row) for row in drawn], (5 * vectors).astype(np.float32)


def test_texts_that_it_has_not_read_get_their_teachers_vectors() -> None:
    texts, vectors = corpus(2000)
    distilled = distill(texts, vectors, QUICK)
    found = agreement(distilled.student, *corpus(300, seed=1))
    assert found["cosine"] > 0.97
    assert found["length"] == pytest.approx(1, abs=0.05)
    assert found["shift"] < 0.1
    assert distilled.metrics["held_out"] == int(0.05 * (distilled.metrics["held_out"] + distilled.metrics["texts"]))
    assert distilled.metrics["cosine"] == pytest.approx(found["cosine"], abs=0.02)


def test_the_same_seed_gives_the_same_student() -> None:
    texts, vectors = corpus(300)
    one, other = (distill(texts, vectors, QUICK).student.to_bytes() for _ in range(2))
    assert one == other


def test_what_is_held_out_is_not_learned_from() -> None:
    texts, vectors = corpus(300)
    random = np.random.default_rng(QUICK.seed)
    order = random.permutation(len(set(texts)))
    assert len(order) == len(texts)
    held = np.sort(order)[random.permutation(len(texts))[: int(0.05 * len(texts))]]
    changed = vectors.copy()
    changed[held] *= -1
    assert np.array_equal(distill(texts, vectors, QUICK).student.table, distill(texts, changed, QUICK).student.table)


@pytest.mark.parametrize("texts", [[], ["", " "], ["one"], ["unknown to the teacher"] * 3])
def test_too_little_text_gives_a_student_all_the_same(texts: list[str]) -> None:
    vectors = np.ones((len(texts), 16), np.float32) * (len(texts) < 3)
    student = distill(texts, vectors, QUICK).student if texts else distill([], np.zeros((0, 16), np.float32)).student
    assert np.isfinite(student.encode(["one", "two", ""])).all()
    assert not student.encode([""]).any()


def test_a_text_without_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="2 texts but 1 vectors"):
        distill(["a", "b"], np.zeros((1, 16), np.float32))
