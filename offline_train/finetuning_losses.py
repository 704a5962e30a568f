"""What stage 2 learns from: softmax over all videos, softmax over a video's comments, and the id-text contrast."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from offline_train.batches import Gatherer, ItemTables, comment_vectors, preferences
from offline_train.corpus import Corpus, Samples, Split
from offline_train.finetuning_config import FinetuneConfig
from offline_train.log import NEVER, VIEW
from offline_train.negatives import CommentNegatives
from offline_train.sr import SR

#: where the comment loss's scale starts
SCALE = -1.0


def interacted(corpus: Corpus, split: Split) -> np.ndarray:
    """float32 [n_v]: 1 where a video is the target or the place of a training sample, so that its id learned."""
    known = np.zeros(len(corpus.log.video_ids), np.float32)
    known[corpus.samples.target_video[split.train]] = 1
    return known


class Losses:
    """The three losses of a batch, as one tensor [3]: video, comment, weighted contrast.

    The comment loss has a temperature of its own, learned (as in CLIP; Radford et al., "Learning Transferable Visual
    Models From Natural Language Supervision", ICML 2021). What a user prefers among a video's comments is far less
    certain than .07 says: held to that, training makes all of them alike, and ranks them worse than before it. No
    ranking depends on it, so it is not kept.
    """

    def __init__(
        self, corpus: Corpus, split: Split, tables: ItemTables, config: FinetuneConfig, random: np.random.Generator
    ) -> None:
        self.corpus, self.tables, self.config, self.random = corpus, tables, config, random
        self.gatherer = Gatherer(corpus, tables)
        self.negatives = CommentNegatives(corpus.log, split.valid_ms)
        self.first_seen = torch.from_numpy(corpus.log.first_seen_video).to(config.device)
        self.times = corpus.samples.ts_ms[split.train]
        self.eligible = np.flatnonzero(interacted(corpus, split))
        #: ln of what comment scores are multiplied by
        self.scale = torch.full((), SCALE, device=config.device, requires_grad=True)

    def __call__(self, model: SR, samples: Samples) -> Tensor:
        known_ms = self.horizon(samples)
        batch = self.gatherer.batch(samples, training=True, known_ms=known_ms)
        video_preference, comment_preference = preferences(model, self.tables, batch)
        nothing = video_preference.new_zeros(())
        is_video = samples.kind == VIEW
        video = self.video(model, video_preference, samples, known_ms, is_video) if is_video.any() else nothing
        comment = self.comment(model, comment_preference, samples, ~is_video) if not is_video.all() else nothing
        items = np.union1d(batch.video.numpy(), batch.comment_video.numpy())
        return torch.stack((video, comment, self.config.contrast * self.contrast(model, items)))

    def horizon(self, samples: Samples) -> np.ndarray:
        """int64 [b], Unix ms: from when on videos are new to the sample, so that their ids are zero.

        In serving, weights are older than what they rank, and what came since has no id. Training would never meet
        that: all its targets have one. So part of the samples is shown the ids of a model that stopped learning a
        while before them.
        """
        count = len(self.times)
        back = (self.random.random(len(samples)) * self.config.cold_span * count).astype(np.int64)
        place = np.searchsorted(self.times, samples.ts_ms) - back
        cold = (self.random.random(len(samples)) < self.config.cold_share) & (place > 0)
        return np.where(cold, self.times[np.maximum(place, 0) % count], NEVER)

    def video(self, model: SR, preference: Tensor, samples: Samples, known_ms: np.ndarray, rows: np.ndarray) -> Tensor:
        """Softmax cross-entropy over all videos that were there and that the user had not seen."""
        device = preference.device
        chosen = samples.take(rows)
        titles = model.text(self.tables.titles)  # [n_v, d]
        preference = preference[torch.from_numpy(rows).to(device)]
        new = self.first_seen[None, :] >= torch.from_numpy(known_ms[rows]).to(device)[:, None]
        logits = torch.where(
            new,
            preference @ F.normalize(titles, dim=-1).T,
            preference @ F.normalize(model.id_vectors() + titles, dim=-1).T,
        )  # [b, n_v]
        target = torch.from_numpy(chosen.target_video.astype(np.int64)).to(device)
        absent = self.first_seen[None, :] > torch.from_numpy(chosen.ts_ms).to(device)[:, None]
        absent[self.corpus.seen_pairs(chosen)] = True
        absent[torch.arange(len(target)), target] = False
        return F.cross_entropy(logits.masked_fill(absent, -torch.inf), target)

    def comment(self, model: SR, preference: Tensor, samples: Samples, rows: np.ndarray) -> Tensor:
        """Softmax cross-entropy over the target, in column 0, and the negatives."""
        device = preference.device
        chosen = samples.take(rows)
        negatives, usable = self.negatives.draw(chosen, self.config.comment_negatives, self.random)
        index = torch.from_numpy(np.column_stack((chosen.target_comment, negatives)))
        candidates = F.normalize(comment_vectors(model, self.tables, index), dim=-1)  # [b, 1 + 19, d]
        logits = (candidates @ preference[torch.from_numpy(rows).to(device)].unsqueeze(-1)).squeeze(-1)
        logits = logits * self.scale.exp()
        logits[:, 1:] = logits[:, 1:].masked_fill(~torch.from_numpy(usable).to(device), -torch.inf)
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=device))

    def contrast(self, model: SR, items: np.ndarray) -> Tensor:
        """InfoNCE between id and text of the batch's history items, both ways, against random other videos."""
        device = model.scale.device
        drawn = self.random.choice(self.eligible, self.config.contrast_negatives)
        ids, titles = model.id_vectors(), model.text(self.tables.titles)
        ids, titles = F.normalize(ids, dim=-1), F.normalize(titles, dim=-1)
        items = items[np.isin(items, self.eligible)]
        if not len(items):
            return model.scale.new_zeros(())
        same = torch.from_numpy(items[:, None] == drawn[None, :]).to(device)
        at, other = torch.from_numpy(items).to(device), torch.from_numpy(drawn).to(device)
        positive = (ids[at] * titles[at]).sum(-1, keepdim=True)
        loss = model.scale.new_zeros(())
        for anchors, others in ((ids, titles), (titles, ids)):
            negative = (anchors[at] @ others[other].T).masked_fill(same, -torch.inf)
            logits = torch.cat((positive, negative), 1) / model.config.temperature
            loss = loss + F.cross_entropy(logits, torch.zeros(len(at), dtype=torch.int64, device=device)) / 2
        return loss
