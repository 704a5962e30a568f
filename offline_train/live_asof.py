"""Live features as they were at the moment of any question, in one pass over the log (`lsvcr.md` §7).

The counts are the worker's own (`model_runtime.live`), moved on event by event: a question sees the events of the log
before its own, at its own time. Questions come in the order of the log; going back starts the pass again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_runtime.live import DecayedCounts
from model_runtime.live_features import (
    COMMENT_FEATURES,
    VIDEO_FEATURES,
    comment_columns,
    is_time_feature,
    item_columns,
    mean_direction,
    stacked,
    unit,
    video_columns,
)
from model_runtime.related import looked_up
from model_runtime.sources import SOURCE_SIZE, SOURCES, top
from offline_train.corpus import Corpus
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import Ints, Protocols, Queries

Floats = NDArray[np.float32]


class SR(Protocol):
    """The frozen model that live signals are added to: `offline_train.deployed.BundleScorer`."""

    @property
    def task(self) -> str:
        """`video` or `comment`."""

    def scores(self, queries: Queries) -> Floats:
        """[n, videos], or [total] for comments."""

    def known_videos(self) -> NDArray[np.bool_]:
        """[videos]; which of them training knew."""

    def title_vectors(self) -> Floats:
        """[videos, d]."""

    def comment_vectors(self) -> Floats:
        """[comments, d]."""

    def related(self, history: Ints) -> tuple[Ints, Floats]:
        """What goes together with the last of some videos: videos, ascending, and by how much."""


@dataclass(frozen=True)
class Asked:
    """One question's candidates: their places among the scores, their features [n, F], and their SR scores [n]."""

    row: int
    places: Ints
    features: Floats
    sr: Floats


def feature_names(task: str, half_lives: int, *, time: bool = True) -> tuple[str, ...]:
    """The features of a task with so many half-lives; without `time`, only those that read no clock and no count."""
    names = VIDEO_FEATURES if task == "video" else COMMENT_FEATURES
    kept = [n for n in names if not (n.startswith(("recent_", "fresh_")) and int(n.rsplit("_", 1)[1]) >= half_lives)]
    return tuple(name for name in kept if time or not is_time_feature(name))


class AsOf:
    """Questions with their candidates and live features, for one task of one log and one bundle's SR."""

    def __init__(
        self,
        sr: SR,
        log: Log,
        corpus: Corpus,
        training: NDArray[np.bool_],
        half_lives_ms: tuple[float, ...],
        *,
        time: bool = True,
        sources: tuple[str, ...] = SOURCES,
        base: Ints | None = None,
    ) -> None:
        """
        Args:
            training: bool, one per event: what counts towards `base`, unless that is given, [items].
            time: False where targets come into being by their own event: then every comment of the video competes.
        """
        self.task, self.time, self.sources = sr.task, time, sources
        self.half_lives_ms = half_lives_ms
        self.names = feature_names(sr.task, len(half_lives_ms), time=time)
        self._sr, self._log, self._corpus = sr, log, corpus
        video = self.task == "video"
        self._rows = np.flatnonzero(log.engaged & (log.kind == (VIEW if video else INTERACTION)))
        self._items = (log.video if video else log.comment)[self._rows]
        self._since = log.first_seen_video if video else log.first_seen_comment
        self._base = engagements(log, self.task, training) if base is None else base
        self._vectors = unit(sr.title_vectors() if video else sr.comment_vectors())  # [items, d]
        self._known = sr.known_videos() if video else None
        self._protocols = Protocols(log)
        self._counts = DecayedCounts(half_lives_ms, len(self._base))
        self._upto = 0

    def __call__(self, queries: Queries) -> Iterator[Asked]:
        """Each question in turn."""
        scores = self._sr.scores(queries)
        upto = np.searchsorted(self._rows, queries.event_index)
        seen: list[Ints] = []
        if self.task == "video":
            who, events = self._protocols.events_before(queries)
            edges = np.searchsorted(who, np.arange(len(queries) + 1))
            seen = [self._log.video[events[edges[i] : edges[i + 1]]] for i in range(len(queries))]
        for i in range(len(queries)):
            self._advance(int(upto[i]))
            yield self._video(queries, i, scores[i], seen[i]) if seen else self._comment(queries, i, scores)

    def _advance(self, upto: int) -> None:
        if upto < self._upto:
            self._counts = DecayedCounts(self.half_lives_ms, len(self._base))
            self._upto = 0
        new = slice(self._upto, upto)
        self._counts.add(self._items[new], self._log.ts_ms[self._rows[new]])
        self._upto = upto

    def _video(self, queries: Queries, i: int, scores: Floats, seen: Ints) -> Asked:
        now_ms = int(queries.ts_ms[i])
        there = self._since < now_ms
        there[seen] = False
        candidates = np.flatnonzero(there)
        counts = self._counts.at(now_ms, candidates)
        history = self._corpus.videos[queries.video_start[i] : queries.video_end[i]]
        together = self._sr.related(history)
        picked = self._union(candidates, scores, counts, looked_up(candidates, *together))
        at = candidates[picked]
        items = item_columns(counts[picked], self._since[at], self._base[at], now_ms, self.half_lives_ms)
        size = len(history) + int(queries.comment_end[i] - queries.comment_start[i])
        sr = scores[at] if size else np.zeros(len(at), np.float32)
        profile = self._vectors[history]
        last = profile[-1:] if len(profile) else np.zeros((1, profile.shape[1]), np.float32)
        assert self._known is not None
        columns = video_columns(
            items,
            self._known[at],
            sr,
            self._vectors[at],
            np.zeros(len(at), np.intp),
            mean_direction(profile[None]),
            last,
            looked_up(at, *together),
            np.array([size]),
        )
        return Asked(i, at, stacked(self.names, columns), sr)

    def _union(self, candidates: Ints, scores: Floats, counts: NDArray[np.float64], related: Floats) -> Ints:
        """Places in `candidates` that any of the sources names."""
        if len(candidates) <= SOURCE_SIZE:
            return np.arange(len(candidates))
        trending, together = np.flatnonzero(counts[:, 0] > 0), np.flatnonzero(related > 0)
        picked = {
            "nearest": lambda: top(scores[candidates]),
            "trending": lambda: trending[top(counts[trending, 0])],
            "newest": lambda: top(self._since[candidates]),
            "related": lambda: together[top(related[together])],
        }
        return np.unique(np.concatenate([picked[name]() for name in self.sources]))

    def _comment(self, queries: Queries, i: int, scores: Floats) -> Asked:
        now_ms = int(queries.ts_ms[i])
        places = np.arange(queries.starts[i], queries.starts[i + 1])
        if self.time:
            places = places[self._since[queries.comments[places]] < now_ms]
        at = queries.comments[places]
        since = self._since[at]
        history = self._corpus.comments[queries.comment_start[i] : queries.comment_end[i]]
        size = len(history) + int(queries.video_end[i] - queries.video_start[i])
        sr = scores[places] if size else np.zeros(len(at), np.float32)
        items = {}
        if self.time:
            items = item_columns(self._counts.at(now_ms, at), since, self._base[at], now_ms, self.half_lives_ms)
        columns = comment_columns(items, since, sr, self._vectors[at], self._vectors[history], size)
        return Asked(i, places, stacked(self.names, columns), sr)


def engagements(log: Log, task: str, within: NDArray[np.bool_]) -> Ints:
    """How often each video (or comment) was engaged with in the events `within`, [items]."""
    rows = np.flatnonzero(log.engaged & within & (log.kind == (VIEW if task == "video" else INTERACTION)))
    items, size = (log.video, len(log.video_ids)) if task == "video" else (log.comment, len(log.comment_ids))
    return np.bincount(items[rows], minlength=size).astype(np.int64)
