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

_MIN_TEXTS = 2  # a term of a single text says nothing about another
_MAX_TERMS = 60_000
_SVD_TEXTS = 40_000  # enough for the components, and it bounds the time


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
    """float32 [len(texts), TEXT_DIM], the strongest components first; zero where no term of the text is known.

    Rows are brought to unit length and centred on the fitted texts' mean: what all texts share says nothing about
    which one somebody prefers. (On film reviews, the untrained cosine to a user's mean comment gains a third by it.)
    """
    # Tags and comments repeat: each distinct text is counted, and transformed, once.
    distinct, inverse = np.unique(np.array(texts, object), return_inverse=True)
    fitted = np.zeros(len(distinct), bool)
    fitted[inverse[fit]] = True
    vectors = np.zeros((len(distinct), TEXT_DIM), np.float32)
    terms = _terms(distinct, fitted)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(fitted))[:_SVD_TEXTS]
    rank = min(TEXT_DIM, terms.shape[1] - 1, len(rows) - 1)
    if rank >= 1:
        svd = TruncatedSVD(rank, random_state=seed, n_iter=3).fit(terms[np.sort(rows)])
        vectors[:, :rank] = svd.transform(terms)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        known = length > 1e-6
        vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=known)
        # A tag given to a hundred videos counts a hundred times.
        weight = np.bincount(inverse[fit], minlength=len(distinct)) * known[:, 0]
        vectors -= np.average(vectors, axis=0, weights=weight)
        vectors *= known
    return vectors[inverse]


def _terms(texts: np.ndarray, fitted: np.ndarray) -> csr_matrix:
    """TF-IDF of words and of pieces of words, [texts, terms]; no columns if nothing can be learned.

    Words keep their case, and punctuation counts as words, because how somebody writes is as telling as about what;
    pieces of words bring forms of one word together, which short texts such as tags need.
    """
    views = []
    for view in (
        {"analyzer": "word", "token_pattern": r"\w+|[^\w\s]", "lowercase": False},
        {"analyzer": "char_wb", "ngram_range": (3, 4)},
    ):
        vectorizer = TfidfVectorizer(
            **view, min_df=_MIN_TEXTS, max_features=_MAX_TERMS, sublinear_tf=True, dtype=np.float32
        )
        try:
            vectorizer.fit(texts[fitted])
        except ValueError:  # no term in at least _MIN_TEXTS texts
            continue
        views.append(vectorizer.transform(texts))
    return csr_matrix(hstack(views)) if views else csr_matrix((len(texts), 0), dtype=np.float32)
