"""A whole real log as workers count it, event by event and by their topic, against the features of the evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model_runtime.live import FADED, HALF_LIVES_MS
from model_runtime.live_features import PER_EVENT
from model_runtime.signals import Signals
from offline_train.corpus import Corpus, temporal_split
from offline_train.evaluation import training_events
from offline_train.live_asof import AsOf
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import Protocols, Queries
from offline_train.sources import rotten_tomatoes
from streams.live_shares import Applied, Shares
from streams.topics import EVENT_TOPICS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PARTITIONS, SLICE, TOLD_EVERY, QUESTIONS = 4, 20, 500, 150
HALF_LIVES = HALF_LIVES_MS[3:6]


class Nothing:
    """An SR that says nothing; what is compared does not come from it."""

    def __init__(self, task: str, log: Log) -> None:
        self.task, self._log = task, log

    def scores(self, queries: Queries) -> np.ndarray:
        shape = (len(queries), len(self._log.video_ids)) if self.task == "video" else (len(queries.comments),)
        return np.zeros(shape, np.float32)

    def known_videos(self) -> np.ndarray:
        return np.ones(len(self._log.video_ids), bool)

    def title_vectors(self) -> np.ndarray:
        return np.ones((len(self._log.video_ids), 2), np.float32)

    def comment_vectors(self) -> np.ndarray:
        return np.ones((len(self._log.comment_ids), 2), np.float32)

    def related(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(0, np.int64), np.empty(0, np.float32)


class Platform:
    """Two workers with two partitions each, which hear of each other by the topic."""

    def __init__(self, log: Log) -> None:
        self.log, self.workers = log, [Shares(Signals(), 1), Shares(Signals(), 1)]
        for number, worker in enumerate(self.workers):
            worker.own([number, number + 2], {})
        self._taken = 0
        self._told = 0
        self._offsets = np.zeros((2, PARTITIONS), np.int64)
        self._ids = {VIEW: (log.video, log.video_ids), INTERACTION: (log.comment, log.comment_ids)}

    def advance(self, upto: int) -> None:
        """The log's events before `upto` are taken, in slices, and told."""
        while self._taken < upto:
            end = min(upto, self._taken + SLICE)
            self._slices(range(self._taken, end))
            self._taken = end
            if self._taken - self._told >= TOLD_EVERY:
                self.tell()
        self.tell()

    def _slices(self, rows: range) -> None:
        slices: dict[tuple[int, int], list[Applied]] = {}
        for row in rows:
            kind, partition = int(self.log.kind[row]), int(self.log.user[row]) % PARTITIONS
            items, ids = self._ids[kind]
            item = ids[items[row]] if self.log.engaged[row] else None
            offset = int(self._offsets[kind, partition])
            self._offsets[kind, partition] += 1
            slices.setdefault((kind, partition), []).append(Applied(int(self.log.ts_ms[row]), offset, item))
        for (kind, partition), applied in slices.items():
            topic = EVENT_TOPICS[0 if kind == VIEW else 1]
            self.workers[partition % 2].take(topic, partition, applied, applied[-1].offset + 1)

    def tell(self) -> None:
        """Every worker publishes what changed, and the other one reads it; old counts fade by and by."""
        self._told = self._taken
        for teller, hearer in (self.workers, self.workers[::-1]):
            messages = [message for part in teller.changes() for message in part]
            hearer.hear([SimpleNamespace(key=m.key, value=m.value, partition=0, offset=0) for m in messages])
            teller.fade()


@pytest.mark.parametrize("task", ["video", "comment"])
def test_what_workers_count_is_what_the_evaluation_counts(task: str, data_dir_shared: Path, tmp_path: Path) -> None:
    rotten_tomatoes.convert(data_dir_shared / "rotten-tomatoes", tmp_path / "log")
    log = Log.read(tmp_path / "log")
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    rows = split.test[corpus.samples.kind[split.test] == (VIEW if task == "video" else INTERACTION)]
    rows = rows[:: max(1, len(rows) // QUESTIONS)]
    asof = AsOf(Nothing(task, log), log, corpus, training_events(log, corpus, split), HALF_LIVES)
    columns = [asof.names.index(f"recent_{k}") for k in range(len(HALF_LIVES))]
    platform, ids = Platform(log), log.video_ids if task == "video" else log.comment_ids
    differences, counted = [], 0
    for queries, _ in Protocols(log).batches(task, corpus.samples, rows, rows=10):
        for asked in asof(queries):
            platform.advance(int(queries.event_index[asked.row]))
            items = asked.places if task == "video" else queries.comments[asked.places]
            wanted = np.expm1(asked.features[:, columns].astype(np.float64)) / PER_EVENT
            for worker in platform.workers:
                found = counts_of(worker.signals, task, [ids[i] for i in items], int(queries.ts_ms[asked.row]))
                differences.append(np.abs(found - wanted).max(axis=1, initial=0.0))
            counted += int((wanted > 0.1).any(axis=1).sum())
    assert counted > QUESTIONS
    every = np.concatenate(differences)
    # What faded is dropped share by share; all else is the same but for the topic's digits.
    assert every.max() < PARTITIONS * FADED + 1e-4
    assert (every < 1e-4).mean() > 0.99


def counts_of(signals: Signals, kind: str, ids: list[str], now_ms: int) -> np.ndarray:
    """[ids, K]; zeros for what has faded or never was."""
    total = signals.kinds[kind].total
    at = [signals.half_lives_ms.index(half_life) for half_life in HALF_LIVES]
    table = total.at(now_ms)[:, at]
    rows = np.array([total.index.get(id_, -1) for id_ in ids], np.intp)
    return np.where(rows[:, None] >= 0, table[rows], 0.0)
