"""Live signals in a scorer: score = SR + f(φ, SR) over four sources of videos, and over the comments of one video."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from model_runtime.candidates import Candidates
from model_runtime.features import Request
from model_runtime.jobs import Encoded
from model_runtime.live_features import comment_columns, mean_direction, unit, video_columns
from model_runtime.live_ranker import Floats, Ranked, Ranker, Rows, best_of, taken
from model_runtime.live_section import LiveItems, LiveTask
from model_runtime.ranking import thresholds
from model_runtime.related import looked_up
from model_runtime.rows import Column, inverse_lengths
from model_runtime.signals import NEVER_MS, Signals, Tally
from model_runtime.sources import SOURCE_SIZE, SOURCES, best_first, top

#: newest videos kept at hand, so that enough are left after what a user must not get and what was removed
_NEWEST = 4096


class LiveVideos(Ranker):
    """Ranks videos for users in batches."""

    kind = "video"

    def __init__(self, candidates: Candidates, task: LiveTask, items: LiveItems, signals: Signals) -> None:
        """As `Ranker`."""
        super().__init__(candidates, task, items, signals)
        self._bundled = len(items.since_ms)
        self._known = np.any(candidates.id_vectors.base != 0, axis=1)
        self._neighbours = candidates.bundle.neighbours
        self._lengths = Column(None, np.float32)  # 1 over the length of each title vector
        self._lengths.extend(inverse_lengths(candidates.title_vectors.base))
        self._newest = self._ordered(np.arange(self._bundled))

    def rank(
        self, scores: Floats, requests: Sequence[Request], encoded: Encoded, most: int, explain: bool = False
    ) -> list[Ranked]:
        """The `most` best videos of each user.

        Args:
            scores: [B, rows], the SR's; minus infinity where a user must not get a video.
        """
        count = scores.shape[1]
        first = len(self._since)
        tally = self._sync(count)
        if first < count:
            late = np.arange(first, count)
            self._lengths.extend(inverse_lengths(self._candidates.title_vectors.take(late)))
            self._newest = self._ordered(np.concatenate((late, self._newest)))
        related = [
            self._related(history[: len(request.videos)])
            for history, request in zip(encoded.videos, requests, strict=True)
        ]
        picked = self._pick(scores, tally, max((_most_barred(r) for r in requests), default=0), related)
        unions = [np.unique(np.concatenate(sources)) for sources in picked]
        lengths = [len(union) for union in unions]
        rows, user = np.concatenate(unions), np.repeat(np.arange(len(unions)), lengths)
        sizes = np.array([len(r.videos) + len(r.comment_ids) for r in requests])
        sr = np.where(sizes[user] > 0, scores[user, rows], np.float32(0)).astype(np.float32)
        means, lasts = self._profiles(requests, encoded)
        items, _ = self._items(tally, rows, self._signals.now_ms)
        together = np.concatenate([looked_up(own, *found) for own, found in zip(unions, related, strict=True)])
        columns = video_columns(items, self._knows(rows), sr, self._titles(rows), user, means, lasts, together, sizes)
        blended = self._blend(columns, sr)
        ends = np.cumsum(lengths)
        return [
            best_of(rows[own], sr[own], blended[own], most, partial(_naming, sources) if explain else None)
            for sources, own in zip(picked, map(slice, ends - lengths, ends), strict=True)
        ]

    def _pick(
        self, scores: Floats, tally: Tally, most_barred: int, related: Sequence[tuple[Rows, Floats]]
    ) -> list[tuple[Rows, ...]]:
        """Each user's candidates by source, in the order of `SOURCES`."""
        pools = self._trending(tally, scores.shape[1], most_barred), self._latest(scores)
        trending, newest = ((pool, _first_allowed(scores[:, pool])) for pool in pools)
        bounds = thresholds(scores, SOURCE_SIZE)
        return [
            (
                _nearest(row, bounds[user]),
                trending[0][trending[1][user]],
                newest[0][newest[1][user]],
                _strongest(row, *related[user]),
            )
            for user, row in enumerate(scores)
        ]

    def _related(self, history: Rows) -> tuple[Rows, Floats]:
        """What goes together with a history's last videos: rows, ascending, and by how much."""
        if self._neighbours is None:
            return np.empty(0, np.intp), np.empty(0, np.float32)
        rows, values = self._neighbours.of(self._origins(history.astype(np.intp)))
        if self._candidates.edits:  # some have another row by now
            rows = np.array([self._row_of(name) for name in self._names(rows)], np.intp)
            order = np.argsort(rows)
            rows, values = rows[order], values[order]
        return rows, values

    def _trending(self, tally: Tally, count: int, most_barred: int) -> Rows:
        """Rows of what is engaged with most, the most first: enough for every user of a batch."""
        order = tally.counts.order(int(self._at[0]))[: self._counted]
        counted = np.flatnonzero(order > 0)
        # As many more as may be barred, and as have no row or were removed.
        best = counted[best_first(order[counted], 2 * SOURCE_SIZE + most_barred)]
        names = map(tally.ids.__getitem__, best.tolist())
        rows = np.fromiter(map(self._candidates.video_index.__getitem__, names), np.intp, len(best))
        return rows[(rows >= 0) & (rows < count)]

    def _latest(self, scores: Floats) -> Rows:
        """Rows of what came last, the last first."""
        newest = self._newest
        _, penalties = self._candidates.view()
        if penalties is None or len(newest) < _NEWEST:
            return newest
        alive = newest[penalties[newest] == 0]
        if len(alive) >= 4 * SOURCE_SIZE:
            return alive
        return self._ordered(np.flatnonzero(penalties[: scores.shape[1]] == 0))  # most of it was removed

    def _ordered(self, rows: Rows) -> Rows:
        """The newest of some rows, the newest first; without those of unknown age."""
        since = self._since.values()[rows]
        known = since < NEVER_MS
        return np.asarray(rows[known][best_first(since[known], _NEWEST)])

    def _profiles(self, requests: Sequence[Request], encoded: Encoded) -> tuple[Floats, Floats]:
        """Mean direction of each user's history of titles, and the last of them, [B, d] each."""
        titles = unit(self._candidates.title_vectors.take(encoded.videos.ravel()))
        titles = titles.reshape(*encoded.videos.shape, -1)
        sizes = np.array([len(request.videos) for request in requests])
        lasts = titles[np.arange(len(requests)), np.maximum(sizes - 1, 0)]
        lasts[sizes == 0] = 0
        return mean_direction(titles), lasts

    def _titles(self, rows: Rows) -> Floats:
        return np.asarray(self._candidates.title_vectors.take(rows) * self._lengths.values()[rows][:, None])

    def _knows(self, rows: Rows) -> NDArray[np.bool_]:
        return taken(self._known, self._origins(rows), False)

    def _origins(self, rows: Rows) -> Rows:
        """The bundle's rows of the same videos; -1 of those that it does not know."""
        return self._candidates.bundle_rows(rows)

    def _base_of(self, rows: Rows) -> NDArray[np.int64]:
        return taken(self._base, self._origins(rows), 0)

    def _since_of(self, rows: Rows) -> NDArray[np.int64]:
        since = taken(self._since.values()[: self._bundled], self._origins(rows), NEVER_MS)
        told = self._candidates.created_ms
        return np.minimum(since, [told.get(name, NEVER_MS) for name in self._names(rows)])

    def _names(self, rows: Rows) -> list[str]:
        return self._candidates.names.of(rows)

    def _row_of(self, id_: str) -> int:
        return self._candidates.video_index[id_]


class LiveComments(Ranker):
    """Ranks the comments under one video for one user."""

    kind = "comment"

    def rank(
        self,
        rows: NDArray[np.int32],
        preference: Floats,
        history: NDArray[np.int32],
        request: Request,
        most: int,
        explain: bool = False,
    ) -> Ranked:
        """The `most` best of some comments, less those of the user's history.

        Args:
            rows: [n], all that are alive under the video.
            preference: [d].
            history: [C], rows of the user's comments, -1: padding, or not known.
        """
        if not len(rows):
            return Ranked(np.empty(0, np.intp), np.empty(0), [] if explain else None)
        comments = self._candidates.comments
        tally = self._sync(len(comments))
        at = rows.astype(np.intp)
        size = len(request.videos) + len(request.comment_ids)
        sr = comments.scores(rows, preference) if size else np.zeros(len(rows), np.float32)
        items, since = self._items(tally, at, self._signals.now_ms)
        texts, mine = unit(comments.vectors.take(at)), unit(comments.vectors.take(history[history >= 0]))
        blended = self._blend(comment_columns(items, since, sr, texts, mine, size), sr)
        keep = ~np.isin(rows, history)
        unnamed = (lambda found: [()] * len(found)) if explain else None  # there is one source, and it gives all
        return best_of(at[keep], sr[keep], blended[keep], most, unnamed)

    def _base_of(self, rows: Rows) -> NDArray[np.int64]:
        return taken(self._base, np.where(rows < len(self._base), rows, -1), 0)

    def _since_of(self, rows: Rows) -> NDArray[np.int64]:
        created = self._candidates.comments.created_ms(rows)
        return np.where(created > 0, created, NEVER_MS)

    def _names(self, rows: Rows) -> list[str]:
        return self._candidates.comments.names.of(rows)

    def _row_of(self, id_: str) -> int:
        return self._candidates.comments.index[id_]


def _most_barred(request: Request) -> int:
    return len(request.videos) + len(request.comment_videos) + len(request.barred) + 1


def _first_allowed(scores: Floats) -> NDArray[np.bool_]:
    """Which columns [B, n] are among a user's first that the user may get."""
    allowed = scores > -np.inf
    return np.asarray(allowed & (np.cumsum(allowed, axis=1) <= SOURCE_SIZE))


def _strongest(row: Floats, related: Rows, values: Floats) -> Rows:
    """Of what is related, the strongest that the user may get; `row` [rows] are scores."""
    seen = related < len(row)
    related, values = related[seen], values[seen]
    allowed = row[related] > -np.inf
    return related[allowed][top(values[allowed])]


def _nearest(row: Floats, bound: np.float32) -> Rows:
    """The best columns of one row; `bound` is the row's from `thresholds`."""
    at = np.flatnonzero(row >= max(bound, np.finfo(np.float32).min))
    return at[top(row[at])]


def _naming(picked: Sequence[Rows], rows: Rows) -> list[tuple[str, ...]]:
    """Which sources name each row."""
    flags = zip(*(np.isin(rows, source).tolist() for source in picked), strict=True)
    return [tuple(name for name, by in zip(SOURCES, named, strict=True) if by) for named in flags]
