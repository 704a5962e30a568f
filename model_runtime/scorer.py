"""Scores users in batches: what to recommend to each, from one bundle and from no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.bundle import Bundle, Scored
from model_runtime.candidates import Candidates
from model_runtime.choice import Choice
from model_runtime.encoder import Encoder, StepGraphs
from model_runtime.features import Features, Request
from model_runtime.ids import video_digest
from model_runtime.jobs import Encoded
from model_runtime.live_ranker import Part, Ranked
from model_runtime.live_scoring import LiveComments, LiveVideos
from model_runtime.manifest import BundleError
from model_runtime.nearest import Nearest
from model_runtime.ranking import best, thresholds, without
from model_runtime.sessions import Sessions
from model_runtime.signals import Signals

__all__ = ["Ranking", "Rendered", "Request", "Scorer"]

Result = TypeVar("Result")
#: what becomes of a batch: of its requests, and of the videos and comments that were ranked for each
Finish = Callable[[Sequence[Request], list[Ranked], list[Ranked]], list[Result]]

#: Users encoded and ranked together. Each step lets the interpreter go once for all, and then waits for it: with
#: 64 a busy worker answers a tenth less. More gain little, and where graphs encode, short histories are padded.
CHUNK = 256
#: Users scored together against all videos, at least. Fewer make that product slower: it packs the table each time.
_SCORED = 32
#: Up to this many videos it is twice as many, a tenth faster still; of more, their scores would take too much memory.
_SCORED_TWICE = 200_000
#: Memory for sessions, unless told: about 4 500 users with full histories. It is taken as users come.
SESSION_BYTES = 512 << 20


class Ranking(Struct, frozen=True, gc=False):
    """What to recommend to one user, best first; scores have 5 decimals.

    Comments are those under `comment_video`, the video that the user is on (None: on none). The sources say what made
    each list: `model`, or `live` where the user has no history and live signals alone decide. The parts say why an item
    has its score, if that was asked for.
    """

    video_ids: list[str]
    video_scores: list[float]
    comment_video: str | None
    comment_ids: list[str]
    comment_scores: list[float]
    video_source: str = "model"
    comment_source: str = "model"
    video_parts: list[Part] | None = None
    comment_parts: list[Part] | None = None


class Rendered(Struct, frozen=True, gc=False):
    """A `Ranking` as it is published: each list is the JSON array of its items (`model_runtime.items`)."""

    videos: bytes
    comment_video: str | None
    comments: bytes
    video_source: str = "model"
    comment_source: str = "model"


class Scorer:
    """Ranks all live videos, and the live comments of the current video, for users.

    Never in a ranking: removed items, the user's own history, the video the user is on, barred videos, comments that
    the user interacted with. A user's result does not depend on who else is in the batch.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        top_videos: int = 100,
        top_comments: int = 50,
        threads: int = 1,
        session_bytes: int = SESSION_BYTES,
        explain: bool = False,
    ) -> None:
        """Load the bundle's graphs, and try them on users with and without histories.

        `session_bytes` bounds what is kept of users between requests (`model_runtime.sessions`), 0 keeps nothing.
        `explain`: rankings say why each item has its score.

        Raises:
            BundleError: the graph does not fit, or gives something that is not finite.
        """
        if top_videos < 1 or top_comments < 1:
            raise ValueError("top_videos and top_comments must be at least 1")
        self.bundle = bundle
        self.version = bundle.version
        self.candidates = Candidates(bundle)
        self.top_videos = top_videos
        self.top_comments = top_comments
        for names in (self.candidates.names, self.candidates.comments.names):
            names.pack()
        self._encoder = Encoder(bundle, threads=threads)
        self._features = Features(self.candidates, bundle.window, CHUNK)
        graphs = StepGraphs(bundle, threads=threads) if bundle.incremental else None
        self.sessions = Sessions(
            self.candidates,
            self._features,
            self._encoder,
            graphs,
            bundle.step_weights,
            max_batch=CHUNK,
            budget_bytes=session_bytes,
        )
        self.nearest = Nearest(self.candidates, top_videos, threads=threads)
        self._comment_choice = Choice(self.candidates.comments.vectors)
        self._scores = np.empty(_together(len(bundle.video_ids)) * len(bundle.video_ids), dtype=np.float32)
        self.signals: Signals | None = None
        self._live_videos: LiveVideos | None = None
        self._live_comments: LiveComments | None = None
        self._explain = explain
        self._lock = threading.Lock()
        self._try_out()

    def follow(self, signals: Signals) -> None:
        """Add live signals to the scores from now on, for the tasks that the bundle has weights for.

        Raises:
            BundleError: the bundle needs counts with other half-lives than are kept.
        """
        live = self.bundle.live
        with self._lock:
            self.signals = signals
            try:
                if live is not None and (task := live.tasks.get("video")) is not None:
                    self._live_videos = LiveVideos(self.candidates, task, live.items["video"], signals)
                if live is not None and (task := live.tasks.get("comment")) is not None:
                    self._live_comments = LiveComments(self.candidates, task, live.items["comment"], signals)
            except ValueError as error:
                raise BundleError(f"{self.bundle.path}: {error}") from None

    def score(self, requests: Sequence[Request]) -> list[Ranking]:
        """Rankings in the order of the requests. Runs without the interpreter lock for the most part.

        Raises:
            ValueError: a request's two comment columns differ in length.
        """
        return self._in_batches(requests, self._ranking)

    def render(self, requests: Sequence[Request]) -> list[Rendered]:
        """As `score`, with lists as they are published, which is faster than making them from rankings.

        Raises:
            ValueError: a request's two comment columns differ in length, or a score is not finite.
        """
        return self._in_batches(requests, self._rendered)

    def check_sample(self, tolerance: float = 1e-4) -> int:
        """Compare with what the trainer's model gave for the bundle's sample users; returns how many there are.

        For a scorer whose candidates are all alive. Items whose scores are within `tolerance` may swap places.

        Raises:
            BundleError: this machine ranks otherwise.
        """
        for number, sample in enumerate(self.bundle.sample):
            wanted = sample.request
            request = Request(
                wanted.videos, [v for v, _ in wanted.comments], [c for _, c in wanted.comments], wanted.current_video
            )
            (ranking,) = self.score([request])
            for kind, ids, scores, expected in (
                ("videos", ranking.video_ids, ranking.video_scores, sample.videos[: self.top_videos]),
                ("comments", ranking.comment_ids, ranking.comment_scores, sample.comments[: self.top_comments]),
            ):
                if problem := _difference(ids, scores, expected, tolerance):
                    raise BundleError(
                        f"{self.bundle.path}: sample user {number}, {kind}: {problem}; don't serve this bundle"
                    )
        return len(self.bundle.sample)

    def _in_batches(self, requests: Sequence[Request], finish: Finish[Result]) -> list[Result]:
        # Users with histories of like length go together: a batch is padded to its longest.
        order = sorted(range(len(requests)), key=lambda i: _size(requests[i]))
        results: dict[int, Result] = {}
        with self._lock:
            for start in range(0, len(order), CHUNK):
                rows = order[start : start + CHUNK]
                results.update(zip(rows, self._batch([requests[i] for i in rows], finish), strict=True))
        return [results[i] for i in range(len(requests))]

    def _batch(self, requests: Sequence[Request], finish: Finish[Result]) -> list[Result]:
        moved = self.candidates.moved
        encoded = self.sessions.encode(requests)
        results: list[Result] = []
        # An index needs no memory for all scores, and reads each of its lists once for all who look there.
        together = CHUNK if self.nearest.recall is not None else _together(len(self.candidates))
        for start in range(0, len(requests), together):
            at = slice(start, start + together)
            part = encoded.part(at)
            results += finish(
                requests[at], self._rank_videos(requests[at], part, moved), self._rank_threads(requests[at], part)
            )
        return results

    def _ranking(self, requests: Sequence[Request], videos: list[Ranked], comments: list[Ranked]) -> list[Ranking]:
        return [
            Ranking(
                self.candidates.names.of(mine.rows),
                mine.scores.tolist(),
                request.current_video,
                self.candidates.comments.names.of(under.rows),
                under.scores.tolist(),
                *self._sources(request),
                mine.parts,
                under.parts,
            )
            for request, mine, under in zip(requests, videos, comments, strict=True)
        ]

    def _rendered(self, requests: Sequence[Request], videos: list[Ranked], comments: list[Ranked]) -> list[Rendered]:
        return [
            Rendered(mine, request.current_video, under, *self._sources(request))
            for request, mine, under in zip(
                requests,
                self.candidates.names.items(videos),
                self.candidates.comments.names.items(comments),
                strict=True,
            )
        ]

    def _sources(self, request: Request) -> tuple[str, str]:
        """What made the lists of videos and of comments."""
        new = not (request.videos or request.comment_ids)
        return (
            "live" if new and self._live_videos is not None else "model",
            "live" if new and self._live_comments is not None else "model",
        )

    def _rank_videos(self, requests: Sequence[Request], encoded: Encoded, moved: int) -> list[Ranked]:
        if self._live_videos is not None:
            scores = self._video_scores(requests, encoded, moved)
            return self._live_videos.rank(scores, requests, encoded, self.top_videos, self._explain)
        near = self.nearest.search(encoded.video_preference, partial(self._excluded, requests, encoded, moved))
        if near is not None:
            return [self._alone(*found, "nearest") for found in near]
        scores = self._video_scores(requests, encoded, moved)
        bounds = thresholds(scores, self.top_videos).tolist()
        return [
            self._alone(*best(row, self.top_videos, bound), "nearest")
            for row, bound in zip(scores, bounds, strict=True)
        ]

    def _alone(self, rows: NDArray[np.intp], scores: NDArray[np.float64], *sources: str) -> Ranked:
        """What the SR alone ranks."""
        parts = [Part(score, 0.0, sources) for score in scores.tolist()] if self._explain else None
        return Ranked(rows, scores, parts)

    def _video_scores(self, requests: Sequence[Request], encoded: Encoded, moved: int) -> NDArray[np.float32]:
        """Scores of all videos, [B, rows], in a reused buffer; -inf where a user must not get a video."""
        # After the histories were looked up: every row in them is in the view.
        count, penalties = self.candidates.view()
        vectors = self.candidates.vectors
        if len(requests) * count > len(self._scores):
            self._scores = np.empty(2 * _together(count) * count, dtype=np.float32)
        scores = self._scores[: len(requests) * count].reshape(len(requests), count)
        preference, bundled = encoded.video_preference, len(vectors.base)
        np.matmul(preference, vectors.base.T, out=scores[:, :bundled])
        if count > bundled:
            np.matmul(preference, vectors.late.values()[: count - bundled].T, out=scores[:, bundled:])
        if penalties is not None:
            scores += penalties
        excluded = self._excluded(requests, encoded, moved)
        users, at = np.nonzero((excluded >= 0) & (excluded < count))  # later rows are not in the view
        scores[users, excluded[users, at]] = -np.inf
        return scores

    def _excluded(self, requests: Sequence[Request], encoded: Encoded, moved: int) -> NDArray[np.int64]:
        """Rows that each user must not get besides those that are not alive, [B, e]; -1: none."""
        columns = encoded.videos, encoded.comment_videos, encoded.current[:, None]
        barred = [request.barred for request in requests]
        if self.candidates.moving != moved:
            # A title changed or a video came meanwhile: what was watched may have another row than was looked up.
            barred = [[*request.barred, *map(video_digest, _videos(request))] for request in requests]
        return self.candidates.barred(np.concatenate(columns, axis=1, dtype=np.int64), barred)

    def _rank_threads(self, requests: Sequence[Request], encoded: Encoded) -> list[Ranked]:
        """The best comments under each user's current video."""
        threads = [self.candidates.comments_of(request.current_video or "") for request in requests]
        if self._live_comments is None and self._comment_choice.ready:
            return self._rank_comments_together(threads, encoded)
        return [
            self._rank_comments(request, candidates, history, preference)
            for request, candidates, history, preference in zip(
                requests, threads, encoded.comments, encoded.comment_preference, strict=True
            )
        ]

    def _rank_comments_together(self, threads: list[NDArray[np.int32]], encoded: Encoded) -> list[Ranked]:
        near = np.full((len(threads), max(map(len, threads))), -1, np.int64)
        for row, candidates in zip(near, threads, strict=True):
            row[: len(candidates)] = candidates
        comments = self.candidates.comments
        chosen, _ = self._comment_choice.best(
            encoded.comment_preference,
            near,
            comments.alive(),
            self.top_comments,
            excluded=encoded.comments.astype(np.int64),
            cosine=True,
        )
        return [
            self._alone(*found) if found is not None else self._ranked_alone(candidates, history, preference)
            for found, candidates, history, preference in zip(
                chosen, threads, encoded.comments, encoded.comment_preference, strict=True
            )
        ]

    def _rank_comments(
        self,
        request: Request,
        candidates: NDArray[np.int32],
        history: NDArray[np.int32],
        preference: NDArray[np.float32],
    ) -> Ranked:
        """The best of the candidates [n]; `history` [C], `preference` [d]."""
        if self._live_comments is not None:
            return self._live_comments.rank(candidates, preference, history, request, self.top_comments, self._explain)
        return self._ranked_alone(candidates, history, preference)

    def _ranked_alone(
        self, candidates: NDArray[np.int32], history: NDArray[np.int32], preference: NDArray[np.float32]
    ) -> Ranked:
        candidates = without(candidates, history)
        scores = self.candidates.comments.scores(candidates, preference)
        bound = thresholds(scores[None], self.top_comments)[0]
        at, found = best(scores, self.top_comments, bound)
        return self._alone(candidates[at].astype(np.intp), found)

    def _try_out(self) -> None:
        video = [str(self.bundle.video_ids[0])]
        comment = [str(id_) for id_ in self.bundle.comment_ids[:1]]
        users = [
            Request(videos, video * len(comments), comments) for videos in ([], video) for comments in ([], comment)
        ]
        for user in users:
            for name, preference in zip(
                ("video", "comment"), self._encoder(self._features.gather([user]).inputs), strict=True
            ):
                if preference.shape != (1, self.bundle.dim):
                    raise BundleError(
                        f"{self.bundle.encoder_path}: the {name} preference of one user has shape "
                        f"{list(preference.shape)}, not [1, {self.bundle.dim}]; export the model again"
                    )
                if not np.isfinite(preference).all():
                    raise BundleError(
                        f"{self.bundle.encoder_path}: the {name} preference of a user with {len(user.videos)} videos "
                        f"and {len(user.comment_ids)} comments is not finite; mask empty histories and export again"
                    )


def _together(videos: int) -> int:
    """How many users are scored together against so many videos."""
    return 2 * _SCORED if videos <= _SCORED_TWICE else _SCORED


def _videos(request: Request) -> set[str]:
    """What a user has watched or is on."""
    return {*request.videos, *request.comment_videos, *([request.current_video] if request.current_video else [])}


def _size(request: Request) -> tuple[int, int]:
    return max(len(request.videos), len(request.comment_ids)), len(request.videos)


def _difference(ids: list[str], scores: list[float], expected: list[Scored], tolerance: float) -> str | None:
    """How a ranking differs from the expected one, None if only within `tolerance`."""
    if len(ids) < len(expected):
        return f"{len(ids)} items, at least {len(expected)} expected"
    place = {item.id: item.score for item in expected}
    for at, (id_, score, item) in enumerate(zip(ids, scores, expected, strict=False)):
        if abs(score - item.score) > tolerance:
            return f"place {at + 1} has score {score:.5f}, {item.score:.5f} expected"
        # An item that is not expected at all can only have replaced one of the same score at the end of the list.
        if abs(score - place.get(id_, expected[-1].score)) > tolerance:
            return f"place {at + 1} is {id_}, {item.id} expected"
    return None
