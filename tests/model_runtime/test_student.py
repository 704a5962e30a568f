"""The student text encoder as serving runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_runtime.hashing import features
from model_runtime.manifest import BundleError
from model_runtime.text import FLOOR, Student

BITS, HIDDEN, DIM = 10, 12, 8
TEXTS = ["a quiet film", "", "Noisy!", "我喜欢这部电影", "a quiet film", "word " * 90]


@pytest.fixture
def student() -> Student:
    rng = np.random.default_rng(0)
    return Student(
        rng.integers(-127, 128, (1 << BITS, HIDDEN)).astype(np.int8),
        rng.random(1 << BITS).astype(np.float32) / 100,
        rng.normal(size=(HIDDEN, DIM)).astype(np.float32),
        rng.normal(size=DIM).astype(np.float32),
    )


def by_hand(student: Student, text: str) -> np.ndarray:
    total = np.zeros(HIDDEN)
    for bucket in features([text], BITS).buckets:
        total += student.table[bucket].astype(float) * student.scales[bucket]
    length = np.linalg.norm(total)
    return (total @ student.weight + length * student.bias) / (length + FLOOR)


def test_vectors_are_what_the_formula_says(student: Student) -> None:
    vectors = student.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [by_hand(student, text) for text in TEXTS], atol=1e-4)
    assert not vectors[1].any()


def test_a_text_alone_has_the_vector_that_it_has_in_a_batch(student: Student) -> None:
    many = TEXTS * 100  # more than are computed at once
    vectors = student.encode(many)
    for i in (0, 1, 3, 257, len(many) - 1):
        np.testing.assert_allclose(student.encode([many[i]])[0], vectors[i], atol=1e-6)
    assert student.encode([]).shape == (0, DIM)


def test_it_is_read_as_it_was_written(student: Student, tmp_path: Path) -> None:
    file = tmp_path / "student.npz"
    file.write_bytes(student.to_bytes())
    again = Student.load(file, DIM)
    assert np.array_equal(again.encode(TEXTS), student.encode(TEXTS))
    assert again.to_bytes() == student.to_bytes()


def test_what_can_not_be_served_is_refused(student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "student.npz"
    for wrong, says in (
        (replace(student, bias=student.bias[:-1]), "shapes"),
        (replace(student, table=student.table[:-1], scales=student.scales[:-1]), "shapes"),
        (replace(student, table=student.table.astype(np.int16)), "types"),
        (replace(student, weight=np.full_like(student.weight, np.nan)), "not finite"),
    ):
        file.write_bytes(wrong.to_bytes())
        with pytest.raises(BundleError, match=says):
            Student.load(file, DIM)
    file.write_bytes(student.to_bytes())
    with pytest.raises(BundleError, match="d is 9"):
        Student.load(file, 9)
    with monkeypatch.context() as patch:
        patch.setattr("model_runtime.text.FEATURES_VERSION", 2)
        with pytest.raises(BundleError, match="features version 1"):
            Student.load(file, DIM)
    file.write_bytes(student.to_bytes()[:100])
    with pytest.raises(BundleError, match="export the model again"):
        Student.load(file, DIM)
    with pytest.raises(BundleError):
        Student.load(tmp_path / "missing.npz", DIM)
