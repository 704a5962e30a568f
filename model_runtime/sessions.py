"""What was computed for a user, kept so that the next event costs one step and not the whole history.

A session is derived from a request's histories and never the source of truth. A request finds by itself whether its
histories are the session's, or the session's with more at their ends, which is a step; an evicted user or an edited
title encodes both histories from the beginning, which fills the session again. So does what changes one history
elsewhere (a window drop, an event out of order), unless compiled steps can encode that side alone from the beginning.
Sessions belong to one bundle: a new model starts without any.

Steps are compiled functions (`model_runtime.compiled`) where Numba is installed and the bundle has the weights for
them, and else, also while these are being compiled, ONNX graphs (`model_runtime.graph_steps`), slower by what starting
a graph's many operators costs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from model_runtime.candidates import Candidates
from model_runtime.encoder import Encoder, StepGraphs, there
from model_runtime.features import Features, Request
from model_runtime.graph_steps import GraphSteps
from model_runtime.jobs import Encoded, Job, Session, Steps
from model_runtime.pools import Pools
from model_runtime.step_weights import StepWeights

log = logging.getLogger(__name__)

_KNOWN = "video", "comment_video", "comment"
#: how long compiled steps are waited for: to load them takes one or two seconds, to compile them half a minute
_LOADING_S = 5.0


class SessionUse(NamedTuple):
    """How many users are kept, for how many there is room, how many had to go for others, and `Sessions.counts`."""

    users: int
    room: int
    evicted: int
    counts: dict[str, int]


class Sessions:
    """Encodes requests in batches of at most `max_batch`, from sessions where it can. For one thread at a time.

    `counts` tells how often what was done: `fill` (from the beginning, kept), `step` (an entry), `restart` (one side
    from the beginning), `query` (another current video only), `plain` (from the beginning, not kept: no user id, or
    histories longer than the window).
    """

    def __init__(
        self,
        candidates: Candidates,
        features: Features,
        encoder: Encoder,
        graphs: StepGraphs | None,
        weights: StepWeights | None,
        *,
        max_batch: int,
        budget_bytes: int,
    ) -> None:
        self._candidates, self._features, self._encoder, self._graphs = candidates, features, encoder, graphs
        self._sessions: dict[str, Session] = {}  # least recently used first
        self._pools: Pools | None = None
        self._steps: Steps | None = None
        if graphs is not None:
            pools = Pools(features.window, features.dim, graphs.layers, graphs.heads, budget_bytes)
            # A batch must fit with all of its users.
            if pools.slots >= max_batch:
                self._pools, self._steps = pools, GraphSteps(graphs, candidates, pools)
            elif budget_bytes:
                log.warning(
                    "nothing is kept of users between events: %.0f MiB have room for %d, and a batch has up to %d",
                    budget_bytes / 2**20, pools.slots, max_batch,
                )  # fmt: skip
        self._compiled: Steps | None = None  # loaded, for the next batch to take over
        self._loader: Thread | None = None
        if self._pools is not None and weights is not None and find_spec("numba") is not None:
            self._loader = Thread(target=self._load, args=(weights, self._pools), name="compiled-steps", daemon=True)
            self._loader.start()
            self._loader.join(_LOADING_S)
            if self._loader.is_alive():
                log.info("graphs take the steps until the functions for them are compiled, once on a machine")
        self._free = list(range(self._pools.slots))[::-1] if self._pools else []
        self.counts = {"fill": 0, "step": 0, "restart": 0, "query": 0, "plain": 0}
        self._evicted = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def use(self) -> SessionUse:
        """What the memory is used for; may be asked while another thread encodes."""
        room = self._pools.slots if self._pools is not None else 0
        return SessionUse(len(self), room, self._evicted, dict(self.counts))

    def wait(self) -> None:
        """Until compiled steps are loaded or, once on a machine, compiled; until then graphs take the steps."""
        if self._loader is not None:
            self._loader.join()

    def _load(self, weights: StepWeights, pools: Pools) -> None:
        try:
            from model_runtime.compiled import CompiledSteps

            self._compiled = CompiledSteps(weights, self._candidates, pools)
        except Exception as error:  # whatever it is, graphs do the same; one is that Numba has nowhere to write to
            log.warning("graphs take the steps, which is slower: %s (is NUMBA_CACHE_DIR writable?)", error)

    def encode(self, requests: Sequence[Request]) -> Encoded:
        """Preferences and rows, in the order of the requests.

        Raises:
            ValueError: a request's two comment columns differ in length.
        """
        if self._compiled is not None:
            # On the same memory: sessions go on.
            self._steps, self._compiled = self._compiled, None
        size, dim = len(requests), self._features.dim
        width = max((max(len(r.videos), len(r.comment_ids)) for r in requests), default=1) or 1
        found = self._candidates.video_index
        histories = np.empty((3, size, width), np.int32)
        histories.fill(-1)
        out = Encoded(
            np.empty((size, dim), np.float32),
            np.empty((size, dim), np.float32),
            histories,
            np.array([found[r.current_video or ""] for r in requests], dtype=np.intp),
        )
        # Before anything is looked up: what changes meanwhile is noticed at the next request.
        edits, additions = self._candidates.edits, self._candidates.additions
        jobs, plain = self._sort(requests)
        try:
            self._encode(jobs, edits, additions, out)
        except BaseException:
            # Half a step is no step.
            for job in jobs:
                self._free.append(self._sessions.pop(job.request.user_id or "").slot)
            raise
        if plain:
            self._plain([(at, requests[at]) for at in plain], out)
        return out

    def _encode(self, jobs: list[Job], edits: int, additions: int, out: Encoded) -> None:
        if not jobs:
            return
        assert self._steps is not None
        checked = []
        for job in jobs:
            session = job.session
            changed = session.edits != edits or (session.unknown and session.additions != additions)
            if changed and not job.fresh and not self._same_rows(session):
                job = Job(job.at, job.request, session, fresh=True)
            if job.fresh:
                session.unknown = False
            if changed or job.fresh:
                session.edits, session.additions = edits, additions
            checked.append(job)
        if fills := [job for job in checked if not self._steps.can(job)]:
            self._fill(fills, out)
            checked = [job for job in checked if self._steps.can(job)]
        self._continue(checked, out)

    # --- who needs what -----------------------------------------------------------------------------------------------

    def _sort(self, requests: Sequence[Request]) -> tuple[list[Job], list[int]]:
        """Requests with a session, which may be new, and those to encode without one."""
        jobs: list[Job] = []
        missing: list[int] = []
        plain: list[int] = []
        taken: set[str] = set()
        window = self._features.window
        for at, request in enumerate(requests):
            user = request.user_id
            long = len(request.videos) > window or len(request.comment_ids) > window
            odd = len(request.comment_ids) != len(request.comment_videos)
            if self._steps is None or user is None or user in taken or long or odd:
                plain.append(at)
                continue
            taken.add(user)
            session = self._sessions.pop(user, None)
            if session is None:
                missing.append(at)
                continue
            self._sessions[user] = session
            jobs.append(Job(at, request, session))
        # Only now, so that no user of this batch is evicted.
        for at in missing:
            user = requests[at].user_id
            assert user is not None
            if self._free:
                slot = self._free.pop()
            else:
                slot = self._sessions.pop(next(iter(self._sessions))).slot
                self._evicted += 1
            self._sessions[user] = Session(slot)
            jobs.append(Job(at, requests[at], self._sessions[user], fresh=True))
        return jobs, plain

    def _same_rows(self, session: Session) -> bool:
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

    def _fill(self, jobs: list[Job], out: Encoded) -> None:
        assert self._pools is not None
        assert self._graphs is not None
        batch = self._features.gather([job.request for job in jobs])
        lengths = {side: batch.inputs[f"{side}_length"] for side in ("video", "comment")}
        inputs: dict[str, Any] = dict(batch.inputs)
        for side, length in lengths.items():
            inputs[f"{side}_rows"], inputs[f"{side}_places"] = there(length, inputs[f"{side}_id"].shape[1])
        results = self._graphs.run("fill", inputs)
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
        for name, found in zip(_KNOWN, (out.videos, out.comment_videos, out.comments), strict=True):
            found[at, : rows[name].shape[1]] = rows[name]
        self.counts["fill"] += len(jobs)

    # --- from a session -----------------------------------------------------------------------------------------------

    def _continue(self, jobs: list[Job], out: Encoded) -> None:
        if not jobs:
            return
        assert self._steps is not None
        idle: list[Job] = []
        pending: list[Job] = []
        for job in jobs:
            (idle if job.appends and not job.more else pending).append(job)
            if job.fresh:
                self.counts["fill"] += 1
            elif not job.appends:
                self.counts["restart"] += 1
            else:
                self.counts["step"] += job.more
        if pending:
            self._steps.run(pending, out)
        if idle:
            self._steps.query(idle, out)
            self.counts["query"] += len(idle)
