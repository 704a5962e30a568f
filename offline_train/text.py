"""Text vectors t(x) of titles and comments, frozen inputs of the SR's training.

Here: TF-IDF and a truncated SVD (latent semantic analysis), fitted in seconds on what was there before the cutoff.
Vectors of a language model come by the same door: anything that gives a `TextVectors`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from offline_train.log import Log

TEXT_DIM = 256
METHODS = ("svd",)

#: words are frequent and rare at once in short texts; below this many texts a term says nothing about others
_MIN_TEXTS = 2


@dataclass(frozen=True)
class TextVectors:
    """`video` float32 [n_v, d_t] of titles, `comment` float32 [n_c, d_t]; zero rows for empty texts."""

    video: np.ndarray
    comment: np.ndarray
    method: str


def text_vectors(log: Log, method: str = "svd", cutoff_ms: int | None = None, seed: int = 0) -> TextVectors:
    """Vectors of all texts of a log; statistics from texts first seen before `cutoff_ms` only (None: from all).

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown text method {method!r}; known: {', '.join(METHODS)}")
    texts = [*log.video_titles, *log.comment_texts]
    first_seen = np.concatenate((log.first_seen_video, log.first_seen_comment))
    fit = np.ones(len(texts), bool) if cutoff_ms is None else first_seen < cutoff_ms
    vectors = _svd(texts, fit, seed)
    return TextVectors(vectors[: len(log.video_ids)], vectors[len(log.video_ids) :], method)


def _svd(texts: list[str], fit: np.ndarray, seed: int) -> np.ndarray:
    """float32 [len(texts), TEXT_DIM]; each row has unit length, or is zero where no term of the text is known."""
    # Tags and comments repeat: each distinct text is counted, and transformed, once.
    distinct, inverse = np.unique(np.array(texts, object), return_inverse=True)
    fitted = np.zeros(len(distinct), bool)
    fitted[inverse[fit]] = True
    terms = _terms(distinct, fitted)
    vectors = np.zeros((len(distinct), TEXT_DIM), np.float32)
    rank = min(TEXT_DIM, terms.shape[1] - 1, int(fitted.sum()) - 1)
    if rank >= 1:
        svd = TruncatedSVD(rank, random_state=seed, n_iter=4).fit(terms[fitted])
        vectors[:, :rank] = svd.transform(terms)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return vectors[inverse]


def _terms(texts: np.ndarray, fitted: np.ndarray) -> csr_matrix:
    """TF-IDF of words, word pairs and pieces of words, [texts, terms]; no columns if nothing can be learned."""
    views = []
    for analyzer, ngrams in (("word", (1, 2)), ("char_wb", (3, 4))):
        vectorizer = TfidfVectorizer(
            analyzer=analyzer,
            ngram_range=ngrams,
            min_df=_MIN_TEXTS,
            max_features=60_000,
            sublinear_tf=True,
            dtype=np.float32,
        )
        try:
            vectorizer.fit(texts[fitted])
        except ValueError:  # no term in at least _MIN_TEXTS texts
            continue
        views.append(vectorizer.transform(texts))
    return csr_matrix(hstack(views)) if views else csr_matrix((len(texts), 0), dtype=np.float32)
