"""Steps by ONNX graphs, one entry at a time, on padded copies of what sessions keep: where Numba is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_runtime.candidates import Candidates
from model_runtime.encoder import StepGraphs, there
from model_runtime.jobs import Encoded, Job
from model_runtime.pools import Pools

#: new entries from which on both histories are encoded from the beginning: that costs about as much as so many steps
MOST_STEPS = 6
_MASKED = np.float32(-1e9)


class GraphSteps:
    """Runs `video_step`, `comment_step` and `query`. For one thread at a time."""

    def __init__(self, graphs: StepGraphs, candidates: Candidates, pools: Pools) -> None:
        self._graphs, self._candidates, self._pools = graphs, candidates, pools

    def can(self, job: Job) -> bool:
        """A few entries at the ends."""
        return job.appends and job.more <= MOST_STEPS

    def run(self, jobs: Sequence[Job], out: Encoded) -> None:
        """Step by step, all users together."""
        pending = list(jobs)
        while pending:
            # Comments first: a user whose last event was a video is then ranked by that very step.
            on_comment = [job for job in pending if job.comment < len(job.request.comment_ids)]
            on_video = [job for job in pending if job.comment == len(job.request.comment_ids)]
            if on_comment:
                self._step("comment", on_comment, out)
            if on_video:
                self._step("video", on_video, out)
            pending = [job for job in pending if job.more]
        self._collect(jobs, out)

    def _collect(self, jobs: Sequence[Job], out: Encoded) -> None:
        slots, at = [job.session.slot for job in jobs], [job.at for job in jobs]
        out.video_preference[at] = self._pools.fields["video_preference"][slots]
        wide = min(out.histories.shape[2], self._pools.all_rows.shape[2])
        for number, rows in enumerate(self._pools.rows.values()):
            out.histories[number, at, :wide] = rows[slots, :wide]

    def _step(self, side: str, jobs: Sequence[Job], out: Encoded) -> None:
        """One more entry of `side` for each of some users."""
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
        inputs["rows"], inputs["places"] = there(lengths[other], inputs[f"{other}_mask"].shape[2])
        widths = {name: inputs[f"{name}_mask"].shape[2] for name in lengths}
        for name in self._graphs.kept[f"{side}_step"]:
            inputs[name] = self._pools.read(name, slots, widths)
        results = self._graphs.run(f"{side}_step", inputs)
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
            if lost[number]:
                session.lost()

    def query(self, jobs: Sequence[Job], out: Encoded) -> None:
        """Only the current video may differ."""
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
        for name in self._graphs.kept["query"]:
            inputs[name] = self._pools.read(name, slots, {"comment": mask.shape[2]})
        out.comment_preference[at] = self._graphs.run("query", inputs)["comment_preference"]
        self._collect(jobs, out)


def _mask(length: NDArray[np.intp]) -> NDArray[np.float32]:
    """[B, 1, L] for the longest of the lengths [B]: 0 where a position is there."""
    at = np.arange(max(1, int(length.max())))
    return np.where(at < length[:, None], np.float32(0), _MASKED)[:, None]
