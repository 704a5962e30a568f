"""The simulated platform as a data set: comments, cold videos, and an oracle that knows what users want."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline_train.comparison import ORACLE
from offline_train.log import Log
from offline_train.protocols import Queries
from offline_train.sources.oracle import Oracle
from offline_train.sources.simulator import Simulator, SimulatorConfig
from offline_train.sources.writer import LogWriter

ORACLE_FILE = "oracle.npz"
SIZE = SimulatorConfig(seed=1, users=5_000, videos=3_000, comments=30_000, days=30, interactions=200_000)


def convert(_: Path, out: Path) -> LogWriter:
    """Write the log and the oracle of the simulation to `out`; there is no folder to read."""
    return Simulator(SIZE).write(out)


class OracleScorer:
    """The log chance of each candidate to be engaged with next, by the truth of the simulation (`Oracle`).

    No model can rank better on average. What did not exist at the moment gets minus infinity.
    """

    name = ORACLE
    protocols = ("as-of",)

    def __init__(self, task: str, log: Log, oracle: Oracle) -> None:
        self.task = task
        self._log, self._oracle = log, oracle
        names = log.video_ids if task == "video" else log.comment_ids
        rows = np.array([int(name[1:]) for name in names])
        self._place = np.full(int(rows.max()) + 1, -1)  # of the oracle's rows in the log
        self._place[rows] = np.arange(len(rows))
        self._row = rows

    def scores(self, queries: Queries) -> NDArray[np.float64]:
        """[n, videos], or [total] for comments."""
        users = [self._log.user_ids[u] for u in queries.user]
        if self.task == "video":
            out = np.full((len(queries), len(self._row)), -np.inf)
            for i, user in enumerate(users):
                rows, scores = self._oracle.video_scores(user, int(queries.ts_ms[i]))
                there = rows < len(self._place)
                at = self._place[rows[there]]
                out[i, at[at >= 0]] = scores[there][at >= 0]
            return out
        flat = np.full(len(queries.comments), -np.inf)
        for i, user in enumerate(users):
            mine = slice(queries.starts[i], queries.starts[i + 1])
            video = self._log.video_ids[queries.video[i]]
            rows, scores = self._oracle.comment_scores(user, video, int(queries.ts_ms[i]))
            wanted = self._row[queries.comments[mine]]
            at = np.minimum(np.searchsorted(rows, wanted), max(0, len(rows) - 1))
            if len(rows):
                flat[mine] = np.where(rows[at] == wanted, scores[at], -np.inf)
        return flat
