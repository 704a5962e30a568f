"""Compiled steps: `model_runtime.step_kernel` on the memory of sessions. Needs Numba.

    python -m model_runtime.compiled

compiles everything that a worker runs compiled, which takes half a minute once on a machine. Otherwise the first worker
does it, while slower ways stand in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_runtime import choice_kernel, step_kernel
from model_runtime.candidates import Candidates
from model_runtime.jobs import Encoded, Job
from model_runtime.pools import Pools
from model_runtime.rows import Table
from model_runtime.step_weights import StepWeights

Floats = NDArray[np.float32]


class CompiledSteps:
    """Appends any number of entries to users' histories at once. For one thread at a time."""

    def __init__(self, weights: StepWeights, candidates: Candidates, pools: Pools) -> None:
        self._candidates, self._pools = candidates, pools
        packed, places = weights.packed()
        shape = weights.dim, weights.heads, weights.layers, weights.feed_forward
        self._model = pools.memory, pools.starts, packed, places, shape
        step_kernel.load()

    def can(self, job: Job) -> bool:
        """Anything: a whole encoding is both sides begun again."""
        return True

    def run(self, jobs: Sequence[Job], out: Encoded) -> None:
        """Comments first: a user whose last event was a video is then ranked by what appends the video."""
        on_comment = [job for job in jobs if job.begins_comment or job.comment < len(job.request.comment_ids)]
        on_video = [job for job in jobs if job.begins_video or job.video < len(job.request.videos)]
        # What a side that begins again will change for the other is not worth computing before.
        for half in (True, False):
            some = [job for job in on_comment if (job.begins_video and len(job.request.videos) > 0) == half]
            if some:
                self._comments(some, out, half)
        if on_video:
            self._videos(on_video, out)

    def query(self, jobs: Sequence[Job], out: Encoded) -> None:
        self._query([[job.session.slot for job in jobs], [job.comment for job in jobs], [job.at for job in jobs]], out)

    def _videos(self, jobs: Sequence[Job], out: Encoded) -> None:
        index = self._candidates.video_index
        new = [job.request.videos[job.video :] for job in jobs]
        rows = [index[id_] for part in new for id_ in part]
        begins, others = [job.video for job in jobs], [job.comment for job in jobs]
        users = [[job.session.slot for job in jobs], begins, list(map(len, new)), others, [job.at for job in jobs]]
        self._append(step_kernel.VIDEO, False, [rows, rows], users, out)
        first = 0
        for job, part in zip(jobs, new, strict=True):
            job.session.videos[job.video :] = part
            job.video += len(part)
            if -1 in rows[first : first + len(part)]:
                job.session.lost()
            first += len(part)

    def _comments(self, jobs: Sequence[Job], out: Encoded, half: bool) -> None:
        videos, comments = self._candidates.video_index, self._candidates.comments.index
        new = [job.request.comment_ids[job.comment :] for job in jobs]
        under = [job.request.comment_videos[job.comment :] for job in jobs]
        rows = [comments[id_] for part in new for id_ in part]
        video_rows = [videos[id_] for part in under for id_ in part]
        begins, others = [job.comment for job in jobs], [job.video for job in jobs]
        users = [[job.session.slot for job in jobs], begins, list(map(len, new)), others, [job.at for job in jobs]]
        self._append(step_kernel.COMMENT, half, [video_rows, rows], users, out)
        first = 0
        for job, part, part_under in zip(jobs, new, under, strict=True):
            session, own = job.session, slice(first, first + len(part))
            session.comments[job.comment :] = part
            session.comment_videos[job.comment :] = part_under
            job.comment += len(part)
            if -1 in rows[own] or -1 in video_rows[own]:
                session.lost()
            first += len(part)

    def _append(
        self, side: np.int64, half: bool, entries: list[list[int]], users: list[list[int]], out: Encoded
    ) -> None:
        known = self._candidates
        texts = known.comment_vectors if side == step_kernel.VIDEO else known.comments.vectors
        step_kernel.append(
            side,
            half,
            np.array(entries, np.int64),
            out.current,
            self._tables(texts),
            out[:3],
            self._pools.all_rows,
            *self._model,
            np.array(users, np.int64),
        )

    def _query(self, users: list[list[int]], out: Encoded) -> None:
        tables = self._tables(self._candidates.comment_vectors)
        step_kernel.query(out.current, tables, out[:3], self._pools.all_rows, *self._model, np.array(users, np.int64))

    def _tables(self, texts: Table) -> tuple[Floats, ...]:
        """Called after rows were looked up: what they point to is there."""
        known = self._candidates
        return *known.id_vectors.parts(), *known.title_vectors.parts(), *texts.parts()


if __name__ == "__main__":
    step_kernel.load()
    choice_kernel.load()
