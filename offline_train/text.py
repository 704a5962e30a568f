"""Text vectors t(x) of titles and comments, frozen inputs of the SR's training.

Here: TF-IDF and a truncated SVD (latent semantic analysis), fitted in seconds on what was there before the cutoff.
Vectors of a language model come by the same door: anything that gives a `TextVectors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from offline_train import llm_texts
from offline_train.log import Log

TEXT_DIM = 256
#: of an SR's weights, what brings texts to it
_MAPS = ("text.", "comment_text", "apart", "encoder.mix.")
METHODS = ("svd", "llm:FOLDER", "llm-text:FOLDER")

_MIN_TEXTS = 2  # a term of a single text says nothing about another
_MAX_TERMS = 60_000
_SVD_TEXTS = 40_000  # enough for the components, and it bounds the time


@dataclass(frozen=True)
class TextVectors:
    """`video` float32 [n_v, d_t] of titles, `comment` float32 [n_c, d_t]; zero rows for empty texts."""

    video: np.ndarray
    comment: np.ndarray
    method: str
    encode: Callable[[Sequence[str]], np.ndarray] | None = None  #: any other texts -> float32 [n, d_t], where possible
    start: Mapping[str, Tensor] | None = None  #: SR weights of stage 1, which go with these vectors
    #: where titles and comments have text MLPs of their own: titles by that of comments, and comments by that of titles
    crossed: tuple[np.ndarray, np.ndarray] | None = None

    def alternatives(self) -> list[TextVectors]:
        """What stage 2 is to be tried on. Where comments' text MLP is their own, the titles' may do harm: so with it,
        and what stage 1 made of A and M; and with the comments' for both, from scratch."""
        if self.crossed is None:
            return [self]
        start = {name: value for name, value in (self.start or {}).items() if name.startswith(_MAPS)}
        return [replace(self, start=start), self.by_one_map()]

    def by_one_map(self) -> TextVectors:
        """Titles and comments by the comments' text MLP, without a start."""
        assert self.crossed is not None
        return TextVectors(self.crossed[0], self.comment, self.method)


def text_vectors(log: Log, method: str = "svd", cutoff_ms: int | None = None, seed: int = 0) -> TextVectors:
    """Vectors of all texts of a log; statistics from texts first seen before `cutoff_ms` only (None: from all).

    `svd`; or `llm:FOLDER`, what `lsvcr train full` left there, with the SR's start from stage 1 if there was one;
    `llm-text:FOLDER` leaves that start out, and titles' own text MLP.

    Raises:
        ValueError: an unknown method, or a folder that does not fit the log.
    """
    kind, _, folder = method.partition(":")
    if kind in ("llm", "llm-text") and folder:
        crossed = llm_texts.read_crossed(folder, log)
        found = TextVectors(*llm_texts.read(folder, log), method, crossed=crossed)
        if kind == "llm-text":
            return found if crossed is None else found.by_one_map()
        return replace(found, start=llm_texts.read_start(folder))
    if method != "svd":
        raise ValueError(f"unknown text method {method!r}; known: {', '.join(METHODS)}")
    texts = [*log.video_titles, *log.comment_texts]
    first_seen = np.concatenate((log.first_seen_video, log.first_seen_comment))
    fit = np.ones(len(texts), bool) if cutoff_ms is None else first_seen < cutoff_ms
    # Tags and comments repeat: each distinct text is counted, and transformed, once.
    distinct, inverse = np.unique(np.array(texts, object), return_inverse=True)
    encoder, vectors = SvdEncoder.fit(distinct, np.bincount(inverse[fit], minlength=len(distinct)), seed)
    vectors = vectors[inverse]
    return TextVectors(vectors[: len(log.video_ids)], vectors[len(log.video_ids) :], method, encoder)


class SvdEncoder:
    """Latent semantic analysis, fitted: texts -> float32 [n, TEXT_DIM], the strongest components first.

    Rows are brought to unit length and centred on the fitted texts' mean: what all texts share says nothing about
    which one somebody prefers. (On film reviews, the untrained cosine to a user's mean comment gains a third by it.)
    A text of which no term is known has a zero row.
    """

    def __init__(self, views: list[TfidfVectorizer], svd: TruncatedSVD | None) -> None:
        self._views, self._svd = views, svd
        self._mean = np.zeros(TEXT_DIM, np.float32)

    @classmethod
    def fit(cls, texts: np.ndarray, counts: np.ndarray, seed: int) -> tuple[SvdEncoder, np.ndarray]:
        """The encoder, fitted on the texts whose count is not 0, and the vectors of all `texts`.

        A text that stands a hundred times in the log has a count of 100, and its weight in the mean.
        """
        encoder = cls(_terms(texts[counts > 0]), None)
        terms = encoder._count(texts)
        rows = np.random.default_rng(seed).permutation(np.flatnonzero(counts))[:_SVD_TEXTS]
        rank = min(TEXT_DIM, terms.shape[1] - 1, len(rows) - 1)
        if rank < 1:
            return encoder, np.zeros((len(texts), TEXT_DIM), np.float32)
        encoder._svd = TruncatedSVD(rank, random_state=seed, n_iter=3).fit(terms[np.sort(rows)])
        vectors, known = encoder._project(terms)
        encoder._mean = np.average(vectors, axis=0, weights=counts * known)
        return encoder, encoder._centred(vectors, known)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of any texts, float32 [n, TEXT_DIM]."""
        if self._svd is None or not len(texts):
            return np.zeros((len(texts), TEXT_DIM), np.float32)
        vectors, known = self._project(self._count(texts))
        return self._centred(vectors, known)

    def _centred(self, vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
        return ((vectors - self._mean) * known[:, None]).astype(np.float32)

    def _count(self, texts: Sequence[str] | np.ndarray) -> csr_matrix:
        views = [view.transform(texts) for view in self._views]
        return csr_matrix(hstack(views)) if views else csr_matrix((len(texts), 0), dtype=np.float32)

    def _project(self, terms: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors [n, TEXT_DIM], and which texts have a known term, bool [n]; the others have a zero row."""
        assert self._svd is not None
        vectors = np.zeros((terms.shape[0], TEXT_DIM), np.float32)
        vectors[:, : self._svd.n_components] = self._svd.transform(terms)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        known = length > 1e-6
        return np.divide(vectors, length, out=np.zeros_like(vectors), where=known), known[:, 0]


def _terms(texts: np.ndarray) -> list[TfidfVectorizer]:
    """TF-IDF of words and of pieces of words, fitted; none if nothing can be learned.

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
        with suppress(ValueError):  # no term in at least _MIN_TEXTS texts
            views.append(vectorizer.fit(texts))
    return views
