import numpy as np
import pytest

from offline_train.log import Log
from offline_train.text import TEXT_DIM, text_vectors
from streams.events import Comment, Video, VideoView

FILMS = ["a dark crime thriller", "a crime drama in the dark", "a romantic comedy", "comedy and romance", "dark crime"]


def log_of(titles, comments=()):
    return Log.build(
        iter(
            [
                *(Video(f"v{i}", title, created_ms=i) for i, title in enumerate(titles)),
                *(Comment(f"c{i}", "v0", text, created_ms=1000 + i) for i, text in enumerate(comments)),
            ]
        ),
        iter([VideoView("e", "u", "v0", 5, 20_000)]),
    )


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_vectors_of_alike_texts_are_near():
    vectors = text_vectors(log_of(FILMS * 3)).video
    assert vectors.shape == (15, TEXT_DIM)
    assert vectors.dtype == np.float32
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.3
    assert cosine(vectors[2], vectors[3]) > cosine(vectors[1], vectors[3]) + 0.3


def test_the_strongest_components_come_first():
    spread = text_vectors(log_of(FILMS * 3)).video.std(0)
    assert spread[0] > 0
    assert spread[:4].sum() > spread[4:].sum()


def test_empty_and_unknown_texts_are_zero():
    texts = text_vectors(log_of(FILMS * 2), "svd")
    assert texts.comment.shape == (0, TEXT_DIM)
    texts = text_vectors(log_of([*FILMS, *FILMS, ""], ["", "妙妙", "crime"]), "svd")
    assert not texts.video[-1].any()
    assert not texts.comment[:2].any()
    assert texts.comment[2].any()


def test_nothing_after_the_cutoff_is_learned_from():
    later = ["completely other words", "completely other words again", "more completely other things"]
    plain = text_vectors(log_of(FILMS), cutoff_ms=len(FILMS)).video
    more = text_vectors(log_of([*FILMS, *later]), cutoff_ms=len(FILMS)).video
    assert np.allclose(plain, more[: len(FILMS)], atol=1e-4)


def test_the_same_seed_gives_the_same_vectors():
    assert np.array_equal(text_vectors(log_of(FILMS), seed=3).video, text_vectors(log_of(FILMS), seed=3).video)


@pytest.mark.parametrize("titles", [["", ""], ["one"], ["unlike", "anything else"]])
def test_too_little_text_gives_zeros_not_errors(titles):
    assert np.isfinite(text_vectors(log_of(titles)).video).all()


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="known: svd"):
        text_vectors(log_of(FILMS), "llm")


def test_texts_that_come_later_get_the_vectors_that_they_would_have_had():
    texts = text_vectors(log_of(FILMS * 2, ["a crime", "", "妙妙"]))
    assert texts.encode is not None
    again = texts.encode([*FILMS, "a crime", "", "妙妙"])
    assert again.dtype == np.float32
    assert np.allclose(again, np.concatenate((texts.video[: len(FILMS)], texts.comment)), atol=1e-6)
