"""What a model must be compared with (`lsvcr.md` §5): simple rankings, several of them strong on small live data.

Whatever a baseline fits, it fits on the training events alone. What it counts or reads "as of" the event goes on with
the stream, as the model's histories do. Each has a name, a task, and `scores(queries)`: [n, videos] in the video task,
[total] (aligned with `Queries.comments`) in the comment task. Higher is better; equal scores are ties.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from offline_train.corpus import Corpus
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import Ints, Queries, ragged

DAY_MS = 24 * 3600 * 1000
TRENDING_DAYS = 30

Scores = NDArray[np.floating]


class Scorer(Protocol):
    """Anything that can be evaluated."""

    @property
    def name(self) -> str:
        """The row of the table."""

    @property
    def task(self) -> str:
        """`video` or `comment`."""

    def scores(self, queries: Queries) -> Scores:
        """[n, videos], or [total] for comments. Batches come in the order of the log."""


class Random:
    """A score drawn at random for each candidate."""

    name = "random"

    def __init__(self, task: str, log: Log, seed: int) -> None:
        self.task = task
        self._videos = len(log.video_ids)
        self._rng = np.random.default_rng(seed)

    def scores(self, queries: Queries) -> Scores:
        """Uniform in [0, 1)."""
        return self._rng.random(_shape(self.task, queries, self._videos))


class Popularity:
    """Engagements with a video (or a comment) in the training events, frozen: what training knows is popular."""

    def __init__(self, task: str, log: Log, training: NDArray[np.bool_]) -> None:
        self.task = task
        self.name = "popularity (all time)" if task == "video" else "most liked"
        rows, items, size = _engagements(task, log)
        self._counts = np.bincount(items[training[rows]], minlength=size).astype(np.float64)

    def scores(self, queries: Queries) -> Scores:
        """How often each was engaged with."""
        if self.task == "video":
            return np.broadcast_to(self._counts, (len(queries), len(self._counts)))
        return self._counts[queries.comments]


class Trending:
    """Engagements as of the event: those of the last `days`, or all of them so far if `days` is None."""

    def __init__(self, task: str, log: Log, days: float | None = TRENDING_DAYS) -> None:
        self.task = task
        self.days = days
        if days is None:
            self.name = "popularity (so far)" if task == "video" else "most liked (so far)"
        else:
            self.name = f"trending ({days:g} days)" if task == "video" else f"most liked ({days:g} days)"
        self._rows, self._items, self._size = _engagements(task, log)
        self._ts_ms = log.ts_ms[self._rows]
        self._counts = np.zeros(self._size)
        self._low = self._high = 0

    def scores(self, queries: Queries) -> Scores:
        """How often each was engaged with before the event, not longer ago than `days`."""
        out = np.empty(_shape(self.task, queries, self._size))
        high = np.searchsorted(self._rows, queries.event_index)
        span_ms = np.inf if self.days is None else self.days * DAY_MS
        low = np.searchsorted(self._ts_ms, queries.ts_ms - span_ms)
        for i in range(len(queries)):
            self._move(int(low[i]), int(high[i]))
            if self.task == "video":
                out[i] = self._counts
            else:
                mine = slice(queries.starts[i], queries.starts[i + 1])
                out[mine] = self._counts[queries.comments[mine]]
        return out

    def _move(self, low: int, high: int) -> None:
        """Make the counts those of the engagements [low, high); cheap while both go forwards."""
        if low < self._low or high < self._high or low > self._high:
            self._counts[:] = 0
            self._low = self._high = low
        np.add.at(self._counts, self._items[self._high : high], 1)
        np.subtract.at(self._counts, self._items[self._low : low], 1)
        self._low, self._high = low, high


class CoOccurrence:
    """Cosine of co-occurrence, summed over a history: users who watched those, watched these.

    With a `half_life`, in positions, recent videos of the history count more, users of many videos less, and what is
    popular is held down less. Its two exponents and the half-life of 2 were the best of a dozen on HetRec's validation.

    The item-to-item matrix S is never built: with X [users, videos] scaled per row and column, S = XᵀX, and a history
    h scores (h Xᵀ) X, less its own diagonal.
    """

    def __init__(self, user: Ints, item: Ints, users: int, items: int, half_life: float | None = None) -> None:
        """`user` and `item` [n] are the engagements; one that repeats counts once."""
        self._half_life = half_life
        x = sparse.csr_matrix((np.ones(len(item)), (user, item)), shape=(users, items))
        x.data[:] = 1.0
        viewers = np.maximum(np.asarray(x.sum(axis=0)).ravel(), 1.0)
        watched = np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1.0)
        by_user, by_candidate = (0.0, 0.5) if half_life is None else (0.5, 0.25)
        self._x = (x @ sparse.diags(viewers**-0.5)).tocsr()
        self._y = (sparse.diags(watched**-by_user) @ x @ sparse.diags(viewers**-by_candidate)).tocsr()
        self._own = np.asarray(self._x.multiply(self._y).sum(axis=0)).ravel()

    def scores(self, items: Ints, starts: Ints) -> Scores:
        """[n, items] for n histories, oldest first: history i is `items[starts[i]:starts[i + 1]]`."""
        weights = np.ones(len(items))
        if self._half_life is not None:
            age = np.repeat(starts[1:], np.diff(starts)) - 1 - np.arange(len(items))
            weights = np.exp2(-age / self._half_life)
        history = sparse.csr_matrix((weights, items, starts), shape=(len(starts) - 1, len(self._own)))
        history.sum_duplicates()
        if self._half_life is None:
            history.data[:] = 1.0
        out = ((history @ self._x.T) @ self._y).toarray()
        out -= history.multiply(self._own[None, :]).toarray()
        return np.asarray(out)


class ItemKNN:
    """`CoOccurrence` of the training events."""

    task = "video"

    def __init__(self, log: Log, corpus: Corpus, training: NDArray[np.bool_], half_life: float | None = None) -> None:
        self.name = "item-kNN" if half_life is None else "item-kNN (recent)"
        rows, items, size = _engagements("video", log)
        kept = training[rows]
        self._core = CoOccurrence(log.user[rows[kept]], items[kept], len(log.user_ids), size, half_life)
        self._corpus = corpus

    def scores(self, queries: Queries) -> Scores:
        """The summed similarity of each video to the videos of the history, itself left out."""
        flat, starts = ragged(queries.video_start, queries.video_end)
        return self._core.scores(self._corpus.videos[flat], starts)


class Newest:
    """Newest first, by creation or first appearance. What does not exist before the event comes last, as one tie."""

    name = "newest first"
    reads_creation = True  # a leak where the target is created by the event itself

    def __init__(self, task: str, log: Log) -> None:
        self.task = task
        self._since = (log.first_seen_video if task == "video" else log.first_seen_comment).astype(np.float64)

    def scores(self, queries: Queries) -> Scores:
        """The time since which each exists, Unix ms."""
        if self.task == "video":
            return np.where(self._since < queries.ts_ms[:, None], self._since, -np.inf)
        since = self._since[queries.comments]
        return np.where(since < queries.ts_ms[queries.row], since, -np.inf)


class TextProfile:
    """Cosine of a comment's TF-IDF vector to the mean of those in the user's comment history. Nothing is trained.

    Vocabulary and document frequencies come from the comments of the training events. Without a history all scores
    are 0: one tie.
    """

    name = "text profile (TF-IDF)"
    task = "comment"

    def __init__(self, log: Log, corpus: Corpus, training: NDArray[np.bool_]) -> None:
        self._corpus = corpus
        known = np.unique(log.comment[training & (log.comment >= 0)])
        vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
        try:
            vectorizer.fit([log.comment_texts[i] for i in known])
        except ValueError:  # no comment in training, or none with a word in it: every comment is then alike
            self._vectors = sparse.csr_matrix((len(log.comment_ids), 1))
        else:
            self._vectors = vectorizer.transform(log.comment_texts).tocsr()

    def scores(self, queries: Queries) -> Scores:
        """The cosine, between 0 and 1."""
        flat, starts = ragged(queries.comment_start, queries.comment_end)
        history = sparse.csr_matrix(
            (np.ones(len(flat)), self._corpus.comments[flat], starts), shape=(len(queries), self._vectors.shape[0])
        )
        profiles = (history @ self._vectors).tocsr()
        norms = np.sqrt(np.asarray(profiles.multiply(profiles).sum(axis=1)).ravel())
        out = np.zeros(len(queries.comments))
        dense = np.zeros(self._vectors.shape[1])
        for i in np.flatnonzero(norms):
            mine = slice(queries.starts[i], queries.starts[i + 1])
            words = slice(profiles.indptr[i], profiles.indptr[i + 1])
            dense[profiles.indices[words]] = profiles.data[words] / norms[i]
            out[mine] = self._vectors[queries.comments[mine]] @ dense
            dense[profiles.indices[words]] = 0.0
        return out


class VectorProfile:
    """`TextProfile` on any text vectors, [n_c, width]: what an SR on the same vectors has to be better than."""

    task = "comment"

    def __init__(self, corpus: Corpus, vectors: NDArray[np.float32], name: str) -> None:
        self.name = name
        self._corpus = corpus
        self._unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def scores(self, queries: Queries) -> Scores:
        """The cosine to the mean of the history's unit vectors; 0 without a history."""
        out = np.zeros(len(queries.comments))
        for i, (start, end) in enumerate(zip(queries.comment_start, queries.comment_end, strict=True)):
            profile = self._unit[self._corpus.comments[start:end]].sum(0)
            if (norm := np.linalg.norm(profile)) > 0:
                mine = slice(queries.starts[i], queries.starts[i + 1])
                out[mine] = self._unit[queries.comments[mine]] @ (profile / norm)
        return out


def baselines(task: str, log: Log, corpus: Corpus, training: NDArray[np.bool_], seed: int = 0) -> list[Scorer]:
    """Every baseline of a task, in the order of the tables.

    Args:
        training: bool, one per event of the log: what may be fitted on.
    """
    if task == "video":
        return [
            Random(task, log, seed),
            Popularity(task, log, training),
            Trending(task, log, None),
            Trending(task, log),
            Trending(task, log, days=7),
            ItemKNN(log, corpus, training),
            ItemKNN(log, corpus, training, half_life=2.0),
            Newest(task, log),
        ]
    return [
        Random(task, log, seed),
        Newest(task, log),
        Popularity(task, log, training),
        Trending(task, log, None),
        TextProfile(log, corpus, training),
    ]


def _engagements(task: str, log: Log) -> tuple[Ints, Ints, int]:
    """The events that engage (ascending rows of the log), what each engages with, and how many of those exist."""
    rows = np.flatnonzero(log.engaged & (log.kind == (VIEW if task == "video" else INTERACTION)))
    if task == "video":
        return rows, log.video[rows], len(log.video_ids)
    return rows, log.comment[rows], len(log.comment_ids)


def _shape(task: str, queries: Queries, videos: int) -> tuple[int, ...]:
    return (len(queries), videos) if task == "video" else (len(queries.comments),)
