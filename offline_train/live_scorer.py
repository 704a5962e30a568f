"""The model with its live signals, as a row of the evaluation: three sources, one ranking over their union."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_runtime.blend import Blender
from offline_train.corpus import Corpus
from offline_train.deployed import NAME
from offline_train.live_asof import SOURCES, SR, AsOf
from offline_train.live_fitting import Choice
from offline_train.log import Log
from offline_train.protocols import Queries

LIVE_NAME = f"{NAME}+live"


class LiveScorer:
    """score = SR + f(φ, SR) for a bundle's SR and a trained `f`. What does not exist yet gets minus infinity."""

    def __init__(
        self,
        sr: SR,
        choice: Choice,
        log: Log,
        corpus: Corpus,
        training: NDArray[np.bool_],
        *,
        name: str = LIVE_NAME,
        sources: tuple[str, ...] = SOURCES,
    ) -> None:
        self.task, self.name = sr.task, name
        #: a ranking that knows what exists says nothing where candidates compete that don't yet
        self.protocols = ("as-of",) if choice.time else ("full", "as-of", "sampled")
        self._blender = Blender(choice.blend)
        self._sr = sr
        self._asof = AsOf(sr, log, corpus, training, choice.half_lives_ms, time=choice.time, sources=sources)
        at = {name: i for i, name in enumerate(self._asof.names)}
        self._columns = np.array([at[name] for name in choice.blend.features])
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
