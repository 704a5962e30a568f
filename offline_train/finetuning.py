"""Stage 2: the SR learns to recommend, with frozen text vectors (paper, section 3.4; `FinetuneConfig` has the values).

The video task is a softmax over all videos, the comment task one over the target and 19 negatives. Both are *as-of*:
what was not there yet at a sample's time is no negative for it. A small contrast ties each video's id embedding to its
text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offline_train.batches import Gatherer, ItemTables, comment_vectors, popular_comments, preferences
from offline_train.corpus import Corpus, Samples, Split
from offline_train.log import INTERACTION, NEVER, VIEW
from offline_train.negatives import CommentNegatives
from offline_train.sr import SR, SRConfig
from offline_train.starts import TEXT_START, choose_start, copy
from offline_train.text import TextVectors
from offline_train.validation import Validator

TASKS = ("video", "comment", "joint")
#: the comment loss's scale: where it starts, and how fast it learns (a single number can be quick)
_SCALE, _SCALE_RATE = -1.0, 1e-2


@dataclass(frozen=True)
class FinetuneConfig:
    """The paper's values, but for five of ours.

    A batch has 256 samples and not 512: small data give few steps. An epoch, after which we validate, draws at most
    `epoch_samples`. For part of the samples recent videos are new, as they are in serving (`cold_share`); one run on
    HetRec was better with it, by less than the spread between runs. And what is validated and kept is a running mean of
    the weights (`averaging`): single steps scatter around it, and to choose the best of them is to choose luck.
    """

    task: str = "joint"
    epochs: int = 50
    patience: int = 5  #: epochs without a better validation NDCG@5
    batch: int = 256
    learning_rate: float = 1e-3
    id_rate: float = 0.1  #: ids that start from counts learn at this part of the rate: they know most, and forget fast
    weight_decay: float = 1e-5
    contrast: float = 0.1  #: weight of the id-text contrast
    contrast_negatives: int = 99
    comment_negatives: int = 19
    epoch_samples: int = 10_000
    averaging: float = 0.98  #: how much of the mean is left after a step; 0: the weights themselves
    cold_share: float = 0.5  #: of the samples, see as new the videos of ...
    cold_span: float = 0.2  #: ... up to this part of the training samples before them
    seed: int = 0
    threads: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; known: {', '.join(TASKS)}")


@dataclass(frozen=True)
class Epoch:
    """One point of the curves. NDCG@5 on validation, None for a task without validation samples."""

    epoch: int
    loss: float
    video_loss: float
    comment_loss: float
    contrast_loss: float
    video_ndcg5: float | None
    comment_ndcg5: float | None
    score: float  #: what early stopping compares
    seconds: float


@dataclass
class Finetuned:
    """The best model of a run and how it came about. Epoch 0 of `curve` is the untrained model."""

    model: SR
    tables: ItemTables
    config: FinetuneConfig
    curve: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    start: str = (
        TEXT_START  #: what it started from: `text`, `counts` and the prior's length, with half-lives; or `serving`
    )
    samples_per_second: float = 0.0


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows: reported after every batch."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    score: float  #: best validation score yet
    samples_per_second: float


def finetune(
    corpus: Corpus,
    split: Split,
    texts: TextVectors,
    config: FinetuneConfig | None = None,
    sr: SRConfig | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    initial: Callable[[SR], str] | None = None,
) -> Finetuned:
    """Train on `split.train`, stop and choose on `split.valid`. Deterministic for one seed and one thread count.

    `initial` puts weights into the new model, and says where they are from (`offline_train.warm_start`).

    Raises:
        ValueError: nothing to train on for the task.
    """
    config = config or FinetuneConfig()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    random = np.random.default_rng(config.seed)
    log = corpus.log
    samples = trainable(corpus.samples.take(split.train), config.task)
    if not len(samples):
        raise ValueError(f"the training part holds no sample for task {config.task}; use more data or an earlier split")

    tables = ItemTables.build(texts, popular_comments(log, corpus, split), log.first_seen_video).to(config.device)
    model = SR(sr or SRConfig(len(log.video_ids), text_dim=texts.video.shape[1], window=corpus.config.window))
    if texts.start is not None:
        model.load_state_dict(texts.start, strict=False)  # all but the ids, which stage 1 has not
    model.known[:, 0] = torch.from_numpy(interacted(corpus, split))
    model.to(config.device)
    validator = Validator(corpus, split, tables, config.task, config.seed)
    aligned = texts.start is not None
    start = choose_start(model, validator, samples, config.seed, aligned) if initial is None else initial(model)
    model.comment_text.requires_grad_(bool(model.apart))
    losses = _Losses(corpus, split, tables, config, random)
    optimizer = _optimizer(model, config, 1.0 if start.startswith(TEXT_START) else config.id_rate, losses.scale)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
    mean = cast(SR, averaged.module)

    result = Finetuned(model, tables, config, start=start)
    # A model that knows nothing is in the curve to compare with, not to be chosen; one that counted or was aligned may.
    fallback = 1 if start.startswith(TEXT_START) and not aligned else 0
    best: dict[str, Tensor] = {}
    began, seen = time.perf_counter(), 0
    for epoch in range(config.epochs + 1):
        total = np.zeros(4)
        batches = list(_batches(samples, config, random)) if epoch else []
        model.train()
        for number, rows in enumerate(batches, 1):
            parts = losses(model, samples.take(rows))
            optimizer.zero_grad(set_to_none=True)
            parts.sum().backward()
            optimizer.step()
            averaged.update_parameters(model)
            total += np.array([parts.sum().item(), *parts.tolist()]) / len(batches)
            seen += len(rows)
            rate = seen / (time.perf_counter() - began)
            best_score = max((point.score for point in result.curve), default=0.0)
            report(Progress(epoch, config.epochs, number, len(batches), parts.sum().item(), best_score, rate))
        score = validator(mean)
        seconds = time.perf_counter() - began
        loss, video, comment, contrast = (float(part) for part in total)
        result.curve.append(
            Epoch(epoch, loss, video, comment, contrast, score.video, score.comment, score.joint, seconds)
        )
        if epoch <= fallback or score.joint > result.curve[result.best_epoch].score:
            result.best_epoch = epoch
            best = copy(mean)
        elif epoch - result.best_epoch >= config.patience:
            break
    model.load_state_dict(best)
    model.eval()
    result.samples_per_second = seen / max(1e-9, time.perf_counter() - began)
    return result


def finetune_best(
    corpus: Corpus,
    split: Split,
    texts: TextVectors,
    config: FinetuneConfig | None = None,
    sr: SRConfig | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Finetuned:
    """`finetune` on each of `texts.alternatives()`: the one that validation likes best.

    How a model ranks before it is trained does not tell: on one data set titles' own text MLP began alike and ended a
    fifth better, on another it ended worse.
    """
    runs = [finetune(corpus, split, one, config, sr, report) for one in texts.alternatives()]
    return max(runs, key=lambda run: run.curve[run.best_epoch].score)


def _optimizer(model: SR, config: FinetuneConfig, id_rate: float, scale: Tensor) -> torch.optim.Optimizer:
    others = [parameter for parameter in model.parameters() if parameter is not model.ids.weight]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": [model.ids.weight], "lr": config.learning_rate * id_rate},
        {"params": [scale], "lr": _SCALE_RATE, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def trainable(samples: Samples, task: str) -> Samples:
    """The samples of a task. A video that the user had seen before is no target: it would not be recommended."""
    video = (samples.kind == VIEW) & ~samples.target_seen
    comment = samples.kind == INTERACTION
    return samples.take(video * (task != "comment") | comment * (task != "video"))


def interacted(corpus: Corpus, split: Split) -> np.ndarray:
    """float32 [n_v]: 1 where a video is the target or the place of a training sample, so that its id learned."""
    known = np.zeros(len(corpus.log.video_ids), np.float32)
    known[corpus.samples.target_video[split.train]] = 1
    return known


def _batches(samples: Samples, config: FinetuneConfig, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of one epoch's batches. Batches hold histories of similar length, so that little padding is computed."""
    rows = random.permutation(len(samples))[: config.epoch_samples]
    length = (samples.video_end - samples.video_start) + (samples.comment_end - samples.comment_start)
    rows = rows[np.argsort(length[rows], kind="stable")]
    cuts = np.arange(config.batch, len(rows), config.batch)
    batches = np.split(rows, cuts)
    for i in random.permutation(len(batches)):
        yield batches[i]


class _Losses:
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
        self.scale = torch.full((), _SCALE, device=config.device, requires_grad=True)

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
