"""A bundle as a scorer of the evaluation: what is measured is what is deployed.

Histories go through the very code that serving runs (`model_runtime`: features, ONNX graph); only the ranking is the
evaluation's, which needs a score for every candidate and not the best few.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        self,
        bundle: Bundle,
        log: Log,
        corpus: Corpus,
        task: str,
        *,
        name: str = NAME,
        threads: int = 2,
        candidates: Candidates | None = None,
    ) -> None:
        """
        Args:
            candidates: the bundle's, with what a catalog added to them; None: what training knew.

        Raises:
            BundleError: the bundle's graph does not fit.
        """
        self.task = task
        self.name = name
        self._log, self._corpus, self._bundle = log, corpus, bundle
        candidates = candidates or Candidates(bundle)
        self._encoder = Encoder(bundle, threads=threads)
        self._features = Features(candidates, bundle.window, _CHUNK)
        self._video_at = _places(candidates.video_index, log.video_ids)
        origins = candidates.bundle_rows(self._video_at)  # another row than `_video_at` where a title changed
        self._origins = np.where(self._video_at >= 0, origins, -1)
        self._video_of = np.full(len(bundle.video_ids), -1)  # of the bundle's rows
        self._video_of[self._origins[self._origins >= 0]] = np.flatnonzero(self._origins >= 0)
        self._comment_at = _places(candidates.comments.index, log.comment_ids)
        # By the log's items; zeros where the bundle knows none.
        self._videos = candidates.vectors.take(self._video_at)  # [videos, d]
        self._ids = candidates.id_vectors.take(self._video_at)
        self._titles = candidates.title_vectors.take(self._video_at)
        self._texts = candidates.comments.vectors.take(self._comment_at)  # [comments, d]
        norms = np.linalg.norm(self._texts, axis=1, keepdims=True)
        self._comments = self._texts / np.maximum(norms, 1e-12)

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
            scores = preferences @ self._videos.T
            return np.where(self._video_at >= 0, scores, -np.inf).astype(np.float32)
        at = queries.comments
        out = np.full(len(at), -np.inf, np.float32)
        for i, preference in enumerate(preferences):
            mine = slice(queries.starts[i], queries.starts[i + 1])
            out[mine] = np.where(self._comment_at[at[mine]] >= 0, self._comments[at[mine]] @ preference, -np.inf)
        return out

    def known_videos(self) -> NDArray[np.bool_]:
        """Which of the log's videos training knew: those with an id embedding."""
        return np.asarray(np.any(self._ids != 0, axis=1))

    def title_vectors(self) -> NDArray[np.float32]:
        """The vectors of the log's titles, [videos, d]; zeros where the bundle knows none."""
        return self._titles

    def comment_vectors(self) -> NDArray[np.float32]:
        """The vectors of the log's comments, [comments, d]; zeros where the bundle knows none."""
        return self._texts

    def related(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What goes together with the last of some of the log's videos: its videos, ascending, and by how much."""
        neighbours = self._bundle.neighbours
        if neighbours is None:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        rows, values = neighbours.of(self._origins[history])
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


def _places(index: Index, ids: Sequence[str]) -> NDArray[np.int64]:
    """The row of each id; -1 where it is not known."""
    return np.fromiter(map(index.__getitem__, ids), np.int64, len(ids))
