"""What was computed for a user, kept so that the next event costs one step and not the whole history.

A session is derived from a request's histories and never the source of truth. A request finds by itself whether its
histories are the session's, or the session's with more at their ends; anything else (out of order, a window drop, an
evicted user, an edited title) encodes both histories from the beginning, which fills the session again. Sessions belong
to one bundle: a new model starts without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_runtime.candidates import Candidates
from model_runtime.encoder import Encoder, Steps
from model_runtime.features import Features, Request
from model_runtime.pools import Pools

#: new entries from which on both histories are encoded from the beginning: that costs about as much as so many steps
MOST_STEPS = 6
_MASKED = np.float32(-1e9)
_KNOWN = "video", "comment_video", "comment"


class Encoded(NamedTuple):
    """Users' preferences, and the rows behind their histories (-1: padding, or not known)."""

    video_preference: NDArray[np.float32]  # [B, d]
    comment_preference: NDArray[np.float32]  # [B, d]
    videos: NDArray[np.int32]  # [B, V]
    comment_videos: NDArray[np.int32]  # [B, C]
    comments: NDArray[np.int32]  # [B, C]
    current: NDArray[np.intp]  # [B]

    def part(self, users: slice) -> Encoded:
        """Some of the users."""
        return Encoded(*(column[users] for column in self))  # type: ignore[arg-type]


class _Session:
    """A user's place in the pools, and the histories that it stands for."""

    __slots__ = ("additions", "comment_videos", "comments", "edits", "slot", "unknown", "videos")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.videos: list[str] = []
        self.comment_videos: list[str] = []
        self.comments: list[str] = []
        self.unknown = False  # whether an entry had no row
        self.edits = self.additions = 0  # the catalog's counts when the rows were looked up


class _Job:
    """A request on its way through the steps: entries of its histories that its session doesn't have yet."""

    __slots__ = ("at", "comment", "request", "session", "video")

    def __init__(self, at: int, request: Request, session: _Session) -> None:
        self.at, self.request, self.session = at, request, session
        self.video, self.comment = len(session.videos), len(session.comments)  # how much of each is encoded


class Sessions:
    """Encodes requests in batches of at most `max_batch`, from sessions where it can. For one thread at a time.

    `counts` tells how often what was done: `fill` (from the beginning, kept), `step`, `query` (another current video
    only), `plain` (from the beginning, not kept: no user id, or histories longer than the window).
    """

    def __init__(
        self,
        candidates: Candidates,
        features: Features,
        encoder: Encoder,
        steps: Steps | None,
        *,
        max_batch: int,
        budget_bytes: int,
    ) -> None:
        self._candidates, self._features, self._encoder, self._steps = candidates, features, encoder, steps
        self._sessions: dict[str, _Session] = {}  # least recently used first
        self._pools: Pools | None = None
        if steps is not None:
            pools = Pools(features.window, features.dim, steps.layers, steps.heads, budget_bytes)
            # A batch must fit with all of its users.
            if pools.slots >= max_batch:
                self._pools = pools
        self._free = list(range(self._pools.slots))[::-1] if self._pools else []
        self.counts = {"fill": 0, "step": 0, "query": 0, "plain": 0}

    def __len__(self) -> int:
        return len(self._sessions)

    def encode(self, requests: Sequence[Request]) -> Encoded:
        """Preferences and rows, in the order of the requests.

        Raises:
            ValueError: a request's two comment columns differ in length.
        """
        size, dim = len(requests), self._features.dim
        width = max((max(len(r.videos), len(r.comment_ids)) for r in requests), default=1) or 1
        found = self._candidates.video_index
        out = Encoded(
            np.empty((size, dim), np.float32),
            np.empty((size, dim), np.float32),
            np.full((size, width), -1, np.int32),
            np.full((size, width), -1, np.int32),
            np.full((size, width), -1, np.int32),
            np.array([found[r.current_video or ""] for r in requests], dtype=np.intp),
        )
        # Before anything is looked up: what changes meanwhile is noticed at the next request.
        edits, additions = self._candidates.edits, self._candidates.additions
        jobs, fresh, plain = self._sort(requests)
        try:
            self._encode(jobs, fresh, plain, requests, out, edits, additions)
        except BaseException:
            # Half a step is no step.
            for job in (*jobs, *fresh):
                self._free.append(self._sessions.pop(job.request.user_id or "").slot)
            raise
        return out

    def _encode(
        self,
        jobs: list[_Job],
        fresh: list[_Job],
        plain: list[int],
        requests: Sequence[Request],
        out: Encoded,
        edits: int,
        additions: int,
    ) -> None:
        fresh = list(fresh)
        for job in jobs:
            session = job.session
            if session.edits != edits or (session.unknown and session.additions != additions):
                if self._same_rows(session):
                    session.edits, session.additions = edits, additions
                else:
                    fresh.append(job)
        if fresh:
            given_up = {id(job) for job in fresh}
            jobs = [job for job in jobs if id(job) not in given_up]
            self._fill(fresh, out, edits, additions)
        if plain:
            self._plain([(at, requests[at]) for at in plain], out)
        self._continue(jobs, out)

    # --- who needs what -----------------------------------------------------------------------------------------------

    def _sort(self, requests: Sequence[Request]) -> tuple[list[_Job], list[_Job], list[int]]:
        """Requests to go on from their session, to fill one, and to encode without one."""
        jobs: list[_Job] = []
        fresh: list[_Job] = []
        missing: list[int] = []
        plain: list[int] = []
        taken: set[str] = set()
        window = self._features.window
        for at, request in enumerate(requests):
            user = request.user_id
            long = len(request.videos) > window or len(request.comment_ids) > window
            odd = len(request.comment_ids) != len(request.comment_videos)
            if self._pools is None or user is None or user in taken or long or odd:
                plain.append(at)
                continue
            taken.add(user)
            session = self._sessions.pop(user, None)
            if session is None:
                missing.append(at)
                continue
            self._sessions[user] = session
            job = _Job(at, request, session)
            (jobs if _goes_on(session, request) else fresh).append(job)
        # Only now, so that no user of this batch is evicted.
        for at in missing:
            user = requests[at].user_id
            assert user is not None
            slot = self._free.pop() if self._free else self._sessions.pop(next(iter(self._sessions))).slot
            self._sessions[user] = _Session(slot)
            fresh.append(_Job(at, requests[at], self._sessions[user]))
        return jobs, fresh, plain

    def _same_rows(self, session: _Session) -> bool:
        """Whether the session's entries still have the rows they were encoded from."""
        assert self._pools is not None
        videos, comments = self._candidates.video_index, self._candidates.comments.index
        for name, ids, index in (
            ("video", session.videos, videos),
            ("comment_video", session.comment_videos, videos),
            ("comment", session.comments, comments),
        ):
            if self._pools.rows[name][session.slot, : len(ids)].tolist() != [index[id_] for id_ in ids]:
                return False
        return True

    # --- from the beginning -------------------------------------------------------------------------------------------

    def _plain(self, requests: list[tuple[int, Request]], out: Encoded) -> None:
        batch = self._features.gather([request for _, request in requests])
        at = [at for at, _ in requests]
        out.video_preference[at], out.comment_preference[at] = self._encoder(batch.inputs)
        for rows, found in (
            (out.videos, batch.videos),
            (out.comment_videos, batch.comment_videos),
            (out.comments, batch.comments),
        ):
            rows[at, : found.shape[1]] = found
        self.counts["plain"] += len(at)

    def _fill(self, jobs: list[_Job], out: Encoded, edits: int, additions: int) -> None:
        assert self._pools is not None
        assert self._steps is not None
        batch = self._features.gather([job.request for job in jobs])
        lengths = {side: batch.inputs[f"{side}_length"] for side in ("video", "comment")}
        inputs: dict[str, Any] = dict(batch.inputs)
        for side, length in lengths.items():
            inputs[f"{side}_rows"], inputs[f"{side}_places"] = _there(length, inputs[f"{side}_id"].shape[1])
        results = self._steps.run("fill", inputs)
        slots = [job.session.slot for job in jobs]
        self._pools.keep(slots, results)
        at = [job.at for job in jobs]
        out.video_preference[at] = results["video_preference"]
        out.comment_preference[at] = results["comment_preference"]
        rows = dict(zip(_KNOWN, (batch.videos, batch.comment_videos, batch.comments), strict=True))
        self._pools.keep_rows(slots, rows)
        for number, job in enumerate(jobs):
            session, request = job.session, job.request
            session.videos, session.comments = list(request.videos), list(request.comment_ids)
            session.comment_videos = list(request.comment_videos)
            v, c = len(session.videos), len(session.comments)
            session.unknown = bool(
                (batch.videos[number, :v] < 0).any()
                or (batch.comment_videos[number, :c] < 0).any()
                or (batch.comments[number, :c] < 0).any()
            )
            session.edits, session.additions = edits, additions
        for name, found in zip(_KNOWN, (out.videos, out.comment_videos, out.comments), strict=True):
            found[at, : rows[name].shape[1]] = rows[name]
        self.counts["fill"] += len(jobs)

    # --- from a session -----------------------------------------------------------------------------------------------

    def _continue(self, jobs: list[_Job], out: Encoded) -> None:
        if not jobs:
            return
        assert self._pools is not None
        idle = [
            job for job in jobs if job.video == len(job.request.videos) and job.comment == len(job.request.comment_ids)
        ]
        pending = [
            job for job in jobs if job.video < len(job.request.videos) or job.comment < len(job.request.comment_ids)
        ]
        while pending:
            # Comments first: a user whose last event was a video is then ranked by that very step.
            on_comment = [job for job in pending if job.comment < len(job.request.comment_ids)]
            on_video = [job for job in pending if job.comment == len(job.request.comment_ids)]
            if on_comment:
                self._step("comment", on_comment, out)
            if on_video:
                self._step("video", on_video, out)
            pending = [
                job
                for job in pending
                if job.video < len(job.request.videos) or job.comment < len(job.request.comment_ids)
            ]
        if idle:
            self._query(idle, out)
        slots, at = [job.session.slot for job in jobs], [job.at for job in jobs]
        out.video_preference[at] = self._pools.fields["video_preference"][slots]
        for name, found in zip(_KNOWN, (out.videos, out.comment_videos, out.comments), strict=True):
            wide = min(found.shape[1], self._features.window)
            found[at, :wide] = self._pools.rows[name][slots, :wide]

    def _step(self, side: str, jobs: list[_Job], out: Encoded) -> None:
        """One more entry of `side` for each of some users."""
        assert self._pools is not None
        assert self._steps is not None
        known, video = self._candidates, side == "video"
        other = "comment" if video else "video"
        slots = np.array([job.session.slot for job in jobs])
        lengths = {
            "video": np.array([job.video for job in jobs]),
            "comment": np.array([job.comment for job in jobs]),
        }
        if video:
            under = [job.request.videos[job.video] for job in jobs]
        else:
            under = [job.request.comment_videos[job.comment] for job in jobs]
        rows = np.array([known.video_index[id_] for id_ in under], dtype=np.intp)
        if video:
            text_rows, texts = rows, known.comment_vectors
        else:
            ids = [job.request.comment_ids[job.comment] for job in jobs]
            text_rows, texts = (
                np.array([known.comments.index[id_] for id_ in ids], dtype=np.intp),
                known.comments.vectors,
            )
        current = out.current[[job.at for job in jobs]]
        inputs: dict[str, Any] = {
            "id": known.id_vectors.take(rows),
            "title": known.title_vectors.take(rows),
            "text": texts.take(text_rows),
            "query": known.id_vectors.take(current) + known.title_vectors.take(current),
            "position": lengths[side],
            f"has_{other}": (lengths[other] > 0).astype(np.float32)[:, None],
        }
        for name, length in lengths.items():
            inputs[f"{name}_mask"] = _mask(length)
        inputs["rows"], inputs["places"] = _there(lengths[other], inputs[f"{other}_mask"].shape[2])
        widths = {name: inputs[f"{name}_mask"].shape[2] for name in lengths}
        for name in self._steps.kept[f"{side}_step"]:
            inputs[name] = self._pools.read(name, slots, widths)
        results = self._steps.run(f"{side}_step", inputs)
        self._pools.append(side, slots, lengths[side], results)
        self._pools.rows["video" if video else "comment_video"][slots, lengths[side]] = rows
        if not video:
            self._pools.rows["comment"][slots, lengths[side]] = text_rows
        at = [job.at for job in jobs]
        out.comment_preference[at] = results["comment_preference"]
        lost = (rows < 0) | (text_rows < 0)
        for number, job in enumerate(jobs):
            session = job.session
            if video:
                session.videos.append(under[number])
                job.video += 1
            else:
                session.comment_videos.append(under[number])
                session.comments.append(ids[number])
                job.comment += 1
            if lost[number] and not session.unknown:
                session.unknown, session.additions = True, -1  # looked up again at the next request
        self.counts["step"] += len(jobs)

    def _query(self, jobs: list[_Job], out: Encoded) -> None:
        """Only the current video may differ."""
        assert self._pools is not None
        assert self._steps is not None
        at = [job.at for job in jobs]
        slots = np.array([job.session.slot for job in jobs])
        length = np.array([job.comment for job in jobs])
        current = out.current[at]
        known = self._candidates
        mask = _mask(length)
        inputs: dict[str, Any] = {
            "query": known.id_vectors.take(current) + known.title_vectors.take(current),
            "comment_mask": mask,
            "has_comment": (length > 0).astype(np.float32)[:, None],
        }
        for name in self._steps.kept["query"]:
            inputs[name] = self._pools.read(name, slots, {"comment": mask.shape[2]})
        out.comment_preference[at] = self._steps.run("query", inputs)["comment_preference"]
        self.counts["query"] += len(jobs)


def _goes_on(session: _Session, request: Request) -> bool:
    """Whether the request's histories are the session's with at most `MOST_STEPS` more at their ends."""
    v, c = len(session.videos), len(session.comments)
    return (
        0 <= len(request.videos) - v + len(request.comment_ids) - c <= MOST_STEPS
        and list(request.videos[:v]) == session.videos
        and list(request.comment_ids[:c]) == session.comments
        and list(request.comment_videos[:c]) == session.comment_videos
    )


def _mask(length: NDArray[np.intp]) -> NDArray[np.float32]:
    """[B, 1, L] for the longest of the lengths [B]: 0 where a position is there."""
    at = np.arange(max(1, int(length.max())))
    return np.where(at < length[:, None], np.float32(0), _MASKED)[:, None]


def _there(length: NDArray[Any], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in [B * width] a position is there, [N], and for each of [B * width] which of these it is (any if none)."""
    there = (np.arange(width) < length[:, None]).ravel()
    rows = np.flatnonzero(there)
    if len(rows) == 0:
        return np.zeros(1, np.int64), np.zeros(len(there), np.int64)
    return rows, np.maximum(np.cumsum(there) - 1, 0)
