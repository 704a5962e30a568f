"""The quick look that training takes after each epoch: NDCG@5 on part of the validation samples.

Figures to publish come from `offline_train.evaluation`; these only steer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from offline_train.batches import Batch, Gatherer, ItemTables, preferences
from offline_train.corpus import Corpus, Samples, Split
from offline_train.log import INTERACTION, VIEW
from offline_train.metrics import Ranks, per_target, rank_lists, rank_rows
from offline_train.sr import SR

CUTOFF = 5
#: per task; the standard error of an NDCG over this many is about .01 at most
SAMPLES = 2000
_BATCH = 512


@dataclass(frozen=True)
class Score:
    """NDCG@5 of each task (None: no samples), and `joint`, what early stopping compares: their geometric mean.

    A mean of that kind weighs relative gains alike, though one task's figures may be ten times the other's.
    """

    video: float | None
    comment: float | None

    @property
    def joint(self) -> float:
        known = [max(value, 1e-4) for value in (self.video, self.comment) if value is not None]
        return float(np.exp(np.mean(np.log(known)))) if known else 0.0


class Validator:
    """Scores a model on a fixed random part of the validation samples.

    Videos: those there before the event and not seen by the user, where the target is one of them. Comments: all of
    the video's, where there is more than one.
    """

    def __init__(self, corpus: Corpus, split: Split, tables: ItemTables, task: str, seed: int) -> None:
        log, samples = corpus.log, corpus.samples.take(split.valid)
        self.corpus, self.tables = corpus, tables
        self.gatherer = Gatherer(corpus, tables)
        self.starts, self.order = log.comments_by_video()
        there = log.first_seen_video[samples.target_video] < samples.ts_ms
        # -1, the target comment of a video sample, reads the appended row
        listed = np.append(log.comment_video, -1)[samples.target_comment] == samples.target_video
        random = np.random.default_rng(seed)
        self.video = _some(samples, (samples.kind == VIEW) & ~samples.target_seen & there, random)
        contested = np.diff(self.starts)[samples.target_video] > 1
        self.comment = _some(samples, (samples.kind == INTERACTION) & listed & contested, random)
        self.tasks = task

    def __call__(self, model: SR) -> Score:
        model.eval()
        with torch.inference_mode():
            video = self._videos(model) if self.tasks != "comment" and len(self.video) else None
            comment = self._comments(model) if self.tasks != "video" and len(self.comment) else None
        return Score(video, comment)

    def _videos(self, model: SR) -> float:
        candidates = F.normalize(model.id_vectors() + model.text(self.tables.titles), dim=-1)
        first_seen = self.corpus.log.first_seen_video
        ranks = []
        for rows, batch in self._batches(self.video):
            scores = (preferences(model, self.tables, batch)[0] @ candidates.T).cpu().numpy()
            allowed = first_seen[None, :] < rows.ts_ms[:, None]
            allowed[self.corpus.seen_pairs(rows)] = False
            ranks.append(rank_rows(scores, rows.target_video, allowed))
        return _ndcg(ranks)

    def _comments(self, model: SR) -> float:
        vectors = F.normalize(model.comment_map(self.tables.comments[:-1]), dim=-1)
        ranks = []
        for rows, batch in self._batches(self.comment):
            preference = preferences(model, self.tables, batch)[1]
            first = self.starts[rows.target_video]
            size = self.starts[rows.target_video + 1] - first
            starts = np.concatenate(([0], np.cumsum(size)))
            row = np.repeat(np.arange(len(rows)), size)
            candidates = self.order[np.arange(starts[-1]) + np.repeat(first - starts[:-1], size)]
            target = np.flatnonzero(candidates == rows.target_comment[row])
            scores = (vectors[torch.from_numpy(candidates)] * preference[torch.from_numpy(row)]).sum(-1)
            ranks.append(rank_lists(scores.cpu().numpy(), starts, target, np.ones(len(candidates), bool)))
        return _ndcg(ranks)

    def _batches(self, samples: Samples) -> list[tuple[Samples, Batch]]:
        parts = np.array_split(np.arange(len(samples)), -(-len(samples) // _BATCH))
        chosen = [samples.take(part) for part in parts]
        return [(rows, self.gatherer.batch(rows, training=False)) for rows in chosen]


def _some(samples: Samples, rows: np.ndarray, random: np.random.Generator) -> Samples:
    chosen = random.permutation(np.flatnonzero(rows))[:SAMPLES]
    return samples.take(np.sort(chosen))


def _ndcg(ranks: list[Ranks]) -> float:
    return float(per_target(Ranks.join(ranks), "ndcg", CUTOFF).mean())
