"""The model with its live signals, as a row of the evaluation: four sources, one ranking over their union."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_runtime.blend import Blender
from model_runtime.live_section import LiveSection, LiveTask
from model_runtime.sources import SOURCES
from offline_train.corpus import Corpus
from offline_train.deployed import LIVE_NAME
from offline_train.live_asof import SR, AsOf
from offline_train.log import Log
from offline_train.protocols import Ints, Queries


def live_scorers(
    srs: Sequence[SR], section: LiveSection | None, log: Log, corpus: Corpus, training: NDArray[np.bool_]
) -> list[LiveScorer]:
    """A bundle's SRs with live signals, for the tasks of its section (`Bundle.live`)."""
    tasks = section.tasks if section else {}
    return [LiveScorer(sr, tasks[sr.task], log, corpus, training) for sr in srs if sr.task in tasks]


class LiveScorer:
    """score = SR + f(φ, SR) for a bundle's SR and a trained `f`. What does not exist yet gets minus infinity."""

    def __init__(
        self,
        sr: SR,
        live: LiveTask,
        log: Log,
        corpus: Corpus,
        training: NDArray[np.bool_],
        *,
        name: str = LIVE_NAME,
        sources: tuple[str, ...] = SOURCES,
        base: Ints | None = None,
    ) -> None:
        """`base`: engagements in the training of `live`, [items], where that was another log than this."""
        self.task, self.name = sr.task, name
        #: a ranking that knows what exists says nothing where candidates compete that don't yet
        self.protocols = ("as-of",) if live.time else ("full", "as-of", "sampled")
        self._blender = Blender(live.blend)
        self._sr = sr
        self._asof = AsOf(
            sr, log, corpus, training, tuple(live.half_lives_ms), time=live.time, sources=sources, base=base
        )
        at = {name: i for i, name in enumerate(self._asof.names)}
        self._columns = np.array([at[name] for name in live.blend.features])
        self._videos = len(log.video_ids)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[n, videos], or [total] for comments."""
        shape = (len(queries), self._videos) if self.task == "video" else (len(queries.comments),)
        out: NDArray[np.float32] = np.full(shape, -np.inf, np.float32)
        for asked in self._asof(queries):
            value = asked.sr + self._blender(asked.features[:, self._columns])
            if self.task == "video":
                out[asked.row, asked.places] = value
            else:
                out[asked.places] = value
        return out
