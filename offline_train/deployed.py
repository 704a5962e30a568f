"""A bundle as a scorer of the evaluation: what is measured is what is deployed.

Histories go through the very code that serving runs (`model_runtime`: features, ONNX graph); only the ranking is the
evaluation's, which needs a score for every candidate and not the best few.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_runtime.bundle import Bundle
from model_runtime.candidates import Candidates
from model_runtime.encoder import Encoder
from model_runtime.features import Features, Request
from model_runtime.index import Index
from offline_train.corpus import Corpus, Split
from offline_train.log import Log
from offline_train.protocols import Queries
from streams.history import HistoryConfig

NAME = "LSVCR"
#: the same with live signals (`offline_train.live_scorer`)
LIVE_NAME = f"{NAME}+live"
#: users encoded together: enough for the matrix products, few enough that padding stays cheap
_CHUNK = 64


def history_config(bundle: Bundle) -> HistoryConfig:
    """The history configuration that the bundle was trained with: what a log must be read with to evaluate it.

    Raises:
        ValueError: the bundle's configuration has other fields than this version knows.
    """
    return msgspec.convert(bundle.manifest.history, HistoryConfig)


def check_horizon(bundle: Bundle, split: Split) -> str | None:
    """A warning if, by its own account, the bundle was trained on what this split tests; None if not.

    A bundle says in `training.valid_ms` up to when it learned, and in `training.split` how it was split.
    """
    trained = bundle.manifest.training
    if trained.get("split") != split.name:
        return (
            f"bundle {bundle.version} was trained with split {trained.get('split')!r}, not {split.name!r}: it may have "
            "learned from the test part, and its figures may be too good"
        )
    until = trained.get("valid_ms")
    if split.name == "temporal" and (not isinstance(until, int) or until > split.test_ms):
        return f"bundle {bundle.version} learned from what this log's test part holds: its figures are too good"
    return None


class BundleScorer:
    """Scores of a bundle's SR for one task. What the bundle does not know cannot be recommended: minus infinity."""

    def __init__(
        self, bundle: Bundle, log: Log, corpus: Corpus, task: str, *, name: str = NAME, threads: int = 2
    ) -> None:
        """Raises BundleError if the bundle's graph does not fit."""
        self.task = task
        self.name = name
        self._log, self._corpus, self._bundle = log, corpus, bundle
        videos, comments = Index.of(bundle.video_ids), Index.of(bundle.comment_ids)
        self._encoder = Encoder(bundle, threads=threads)
        self._features = Features(Candidates(bundle), bundle.window, _CHUNK)
        self._video_at = np.fromiter(map(videos.__getitem__, log.video_ids), np.int64, len(log.video_ids))
        self._video_of = np.full(len(bundle.video_ids), -1)  # of the bundle's rows
        self._video_of[self._video_at[self._video_at >= 0]] = np.flatnonzero(self._video_at >= 0)
        self._comment_at = np.fromiter(map(comments.__getitem__, log.comment_ids), np.int64, len(log.comment_ids))
        norms = np.linalg.norm(bundle.comment_vectors, axis=1, keepdims=True)
        self._comments = bundle.comment_vectors / np.maximum(norms, 1e-12)  # [n_c, d]

    def unknown(self) -> dict[str, int]:
        """How many of the log's videos and comments the bundle does not know."""
        return {
            "videos": int(np.count_nonzero(self._video_at < 0)),
            "comments": int(np.count_nonzero(self._comment_at < 0)),
        }

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[n, videos], or [total] for comments: cosines over the temperature, as serving gives them."""
        preferences = np.concatenate([self._encode(queries, at) for at in range(0, len(queries), _CHUNK)])
        if self.task == "video":
            scores = preferences @ self._bundle.video_vectors.T
            return np.where(self._video_at >= 0, scores[:, self._video_at], -np.inf).astype(np.float32)
        at = self._comment_at[queries.comments]
        out = np.full(len(at), -np.inf, np.float32)
        for i, preference in enumerate(preferences):
            mine = slice(queries.starts[i], queries.starts[i + 1])
            out[mine] = np.where(at[mine] >= 0, self._comments[at[mine]] @ preference, -np.inf)
        return out

    def known_videos(self) -> NDArray[np.bool_]:
        """Which of the log's videos training knew: those with an id embedding."""
        known = np.append(np.any(self._bundle.video_id_vectors != 0, axis=1), False)
        return np.asarray(known[self._video_at])

    def title_vectors(self) -> NDArray[np.float32]:
        """The vectors of the log's titles, [videos, d]; zeros where the bundle knows none."""
        return _rows(self._bundle.video_title_vectors, self._video_at)

    def comment_vectors(self) -> NDArray[np.float32]:
        """The vectors of the log's comments, [comments, d]; zeros where the bundle knows none."""
        return _rows(self._bundle.comment_vectors, self._comment_at)

    def related(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What goes together with the last of some of the log's videos: its videos, ascending, and by how much."""
        neighbours = self._bundle.neighbours
        if neighbours is None:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        rows, values = neighbours.of(self._video_at[history])
        videos = self._video_of[rows]
        there = np.flatnonzero(videos >= 0)
        there = there[np.argsort(videos[there])]
        return videos[there], values[there]

    def _encode(self, queries: Queries, first: int) -> NDArray[np.float32]:
        """The preferences for up to `_CHUNK` questions from `first` on, [n, d]."""
        requests = [self._request(queries, i) for i in range(first, min(first + _CHUNK, len(queries)))]
        video, comment = self._encoder(self._features.gather(requests).inputs)
        return video if self.task == "video" else comment

    def _request(self, queries: Queries, i: int) -> Request:
        log, corpus = self._log, self._corpus
        videos = corpus.videos[queries.video_start[i] : queries.video_end[i]]
        records = slice(queries.comment_start[i], queries.comment_end[i])
        return Request(
            videos=[log.video_ids[v] for v in videos],
            comment_videos=[log.video_ids[v] for v in corpus.comment_videos[records]],
            comment_ids=[log.comment_ids[c] for c in corpus.comments[records]],
            current_video=log.video_ids[queries.video[i]] if queries.video[i] >= 0 else None,
        )


def _rows(table: NDArray[np.float32], at: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.asarray(np.vstack([table, np.zeros((1, table.shape[1]), np.float32)])[at])
