"""Compiled steps: `model_runtime.step_kernel` on the memory of sessions. Needs Numba."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_runtime import step_kernel
from model_runtime.candidates import Candidates
from model_runtime.jobs import Encoded, Job
from model_runtime.pools import Pools
from model_runtime.step_weights import StepWeights


class CompiledSteps:
    """Appends any number of entries to users' histories at once. For one thread at a time."""

    def __init__(self, weights: StepWeights, candidates: Candidates, pools: Pools) -> None:
        self._candidates, self._pools = candidates, pools
        packed, places = weights.packed()
        shape = weights.dim, weights.heads, weights.layers, weights.feed_forward
        self._model = pools.memory, pools.starts, packed, places, shape
        self._load()

    def _load(self) -> None:
        """Load the compiled functions, or compile them, by calling them for nobody in memory that nobody has yet."""
        d = self._model[-1][0]
        one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
        vectors, preference = np.zeros((1, 2 * d), np.float32), np.zeros((1, d), np.float32)
        for side in (step_kernel.VIDEO, step_kernel.COMMENT):
            step_kernel.append(side, preference, vectors, preference, preference, *self._model, none, none, one, none)
        step_kernel.comment_preferences(preference, preference, *self._model, none, none)

    def can(self, job: Job) -> bool:
        """One side may be encoded from the beginning, if it has any entry; not both."""
        session, request = job.session, job.request
        restarts = (job.video < len(session.videos)) + (job.comment < len(session.comments))
        if restarts == 2:
            return False
        return restarts == 0 or len(request.videos if job.video < len(session.videos) else request.comment_ids) > 0

    def run(self, jobs: Sequence[Job], out: Encoded) -> int:
        """Comments first: a user whose last event was a video is then ranked by what appends the video."""
        came = 0
        for side in ("comment", "video"):
            some = [job for job in jobs if _length(job, side) > getattr(job, side)]
            if some:
                came += self._append(side, some, out)
        return came

    def query(self, jobs: Sequence[Job], out: Encoded) -> None:
        at = [job.at for job in jobs]
        preference = np.empty((len(jobs), out.comment_preference.shape[1]), np.float32)
        step_kernel.comment_preferences(
            preference,
            self._query(out.current[at]),
            *self._model,
            np.array([job.session.slot for job in jobs]),
            np.array([job.comment for job in jobs]),
        )
        out.comment_preference[at] = preference

    def _query(self, current: NDArray[np.intp]) -> NDArray[np.float32]:
        known = self._candidates
        query = known.id_vectors.take(current)
        query += known.title_vectors.take(current)
        return query

    def _append(self, side: Literal["video", "comment"], jobs: Sequence[Job], out: Encoded) -> int:
        known, video = self._candidates, side == "video"
        begins = [getattr(job, side) for job in jobs]
        if video:
            new = [job.request.videos[job.video :] for job in jobs]
            texts = known.comment_vectors
        else:
            new = [job.request.comment_videos[job.comment :] for job in jobs]
            new_comments = [job.request.comment_ids[job.comment :] for job in jobs]
            texts = known.comments.vectors
        rows = np.array([known.video_index[id_] for id_ in chain.from_iterable(new)], dtype=np.intp)
        text_rows = rows
        if not video:
            index = known.comments.index
            text_rows = np.array([index[id_] for id_ in chain.from_iterable(new_comments)], dtype=np.intp)
        d = out.video_preference.shape[1]
        read = np.empty((len(rows), 2 * d), np.float32)
        read[:, :d] = known.title_vectors.take(rows)
        read[:, d:] = texts.take(text_rows)
        at = [job.at for job in jobs]
        preference = np.empty((len(jobs), d), np.float32)
        step_kernel.append(
            step_kernel.VIDEO if video else step_kernel.COMMENT,
            known.id_vectors.take(rows),
            read,
            self._query(out.current[at]),
            preference,
            *self._model,
            np.array([job.session.slot for job in jobs]),
            np.array(begins),
            np.array([len(part) for part in new]),
            np.array([job.comment if video else job.video for job in jobs]),
        )
        out.comment_preference[at] = preference
        first = 0
        for number, job in enumerate(jobs):
            session, begin, count = job.session, begins[number], len(new[number])
            part, end = slice(first, first + count), begin + count
            if video:
                self._pools.keep_part("video", session.slot, begin, rows[part])
                session.videos[begin:] = new[number]
                job.video = end
            else:
                self._pools.keep_part("comment_video", session.slot, begin, rows[part])
                self._pools.keep_part("comment", session.slot, begin, text_rows[part])
                session.comment_videos[begin:] = new[number]
                session.comments[begin:] = new_comments[number]
                job.comment = end
            first += count
        if min(rows.min(), text_rows.min()) < 0:
            first = 0
            for job, part in zip(jobs, new, strict=True):
                own = slice(first, first + len(part))
                if min(rows[own].min(), text_rows[own].min()) < 0:
                    job.session.lost()
                first += len(part)
        return len(rows)


def _length(job: Job, side: str) -> int:
    return len(job.request.videos) if side == "video" else len(job.request.comment_ids)
