"""What each live signal is worth: features left out (f is trained again without them), sources of candidates left out,
f that sees the SR's score alone, and live signals without the SR.

The half-lives and the form of f are those that the bundle chose; only its weights are fitted anew, on the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_runtime.live_section import LiveTask
from model_runtime.sources import SOURCES
from offline_train.baselines import Scorer
from offline_train.corpus import Corpus, Split
from offline_train.deployed import LIVE_NAME
from offline_train.evaluation import training_events
from offline_train.live_asof import SR, AsOf
from offline_train.live_fitting import Lists, LiveConfig, collect, train
from offline_train.live_scorer import LiveScorer
from offline_train.log import Log
from offline_train.protocols import Queries

#: what is left out together, by the beginnings of feature names; all of a group say the same kind of thing
GROUPS: dict[str, tuple[str, ...]] = {
    "recent counts": ("recent_",),
    "freshness and age": ("fresh_", "age", "order"),
    "counts of training": ("base",),
    "known to training": ("known",),
    "related videos": ("related",),
    "similarity of text": ("title_", "profile_"),
    "the SR as a feature": ("sr",),
}
ONLY_SR = f"{LIVE_NAME}, f of the SR alone"
NO_SR = f"{LIVE_NAME}, without the SR"


def live_ablations(sr: SR, live: LiveTask, log: Log, corpus: Corpus, split: Split) -> Iterator[Scorer]:
    """Every variant of a bundle's live ranking of one task, as rows of the evaluation, the whole one first."""
    training = training_events(log, corpus, split)
    config, hidden = LiveConfig(), len(live.blend.bias)
    half_lives = tuple(live.half_lives_ms)
    asof = AsOf(sr, log, corpus, training, half_lives, time=live.time)
    lists = collect(asof, log, corpus, split.valid, config.samples)
    kept = Remembered(sr)

    def scorer(name: str, chosen: Lists, model: SR = kept, sources: tuple[str, ...] = SOURCES) -> LiveScorer:
        fitted = LiveTask(live.half_lives_ms, live.time, train(chosen, hidden, config))
        return LiveScorer(model, fitted, log, corpus, training, name=name, sources=sources)

    yield LiveScorer(kept, live, log, corpus, training)
    for group, starts in GROUPS.items():
        names = [name for name in lists.names if not name.startswith(starts)]
        if len(names) < len(lists.names):
            yield scorer(f"{LIVE_NAME} without {group}", only(lists, names))
    if sr.task == "video":
        for source in SOURCES:  # as when a source fails: f stays as it is
            left = tuple(name for name in SOURCES if name != source)
            yield LiveScorer(kept, live, log, corpus, training, name=f"{LIVE_NAME}, source {source} off", sources=left)
    yield scorer(ONLY_SR, only(lists, [name for name in lists.names if name in ("sr", "history")]))
    silent = replace(only(lists, [name for name in lists.names if name != "sr"]), sr=np.zeros_like(lists.sr))
    yield scorer(NO_SR, silent, Silent(sr), tuple(name for name in SOURCES if name != "nearest"))


def only(lists: Lists, names: list[str]) -> Lists:
    """The same lists with some of their features."""
    at = [lists.names.index(name) for name in names]
    return replace(lists, features=lists.features[:, :, at], names=tuple(names))


class Remembered:
    """An SR that answers the same question twice from memory: all variants are asked one batch after the other."""

    def __init__(self, sr: SR) -> None:
        self._sr, self.task = sr, sr.task
        self._asked: Queries | None = None
        self._answer: NDArray[np.float32] = np.empty(0, np.float32)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """As the SR's."""
        if self._asked is not queries:
            self._asked, self._answer = queries, self._sr.scores(queries)
        return self._answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sr, name)


class Silent(Remembered):
    """An SR whose scores say nothing: all are 0. What it knows of titles, comments and neighbours stays."""

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """Zeros, [n, videos] or [total]."""
        if queries.task == "video":
            return np.zeros((len(queries), len(self._sr.title_vectors())), np.float32)
        return np.zeros(len(queries.comments), np.float32)
