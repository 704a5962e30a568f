"""Stage 2: the SR learns to recommend, with frozen text vectors (paper, section 3.4; `FinetuneConfig` has the values).

The video task is a softmax over all videos, the comment task one over the target and 19 negatives. Both are *as-of*:
what was not there yet at a sample's time is no negative for it. A small contrast ties each video's id embedding to its
text.

Where titles have a text MLP of their own, training has a second part (ours). Videos can be at their best long before
comments are then, and lose when all trains on. So their weights rest, and only what is comments' own goes on learning,
from the comment loss and from what it does to videos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offline_train.batches import ItemTables, popular_comments
from offline_train.corpus import Corpus, Samples, Split
from offline_train.finetuning_config import Epoch, FinetuneConfig, Progress
from offline_train.finetuning_losses import Losses, interacted
from offline_train.log import INTERACTION, VIEW
from offline_train.sr import SR, SRConfig
from offline_train.starts import TEXT_START, choose_start, copy
from offline_train.text import TextVectors
from offline_train.validation import Validator

#: how fast the comment loss's scale learns (a single number can be quick)
_SCALE_RATE = 1e-2
#: what the comment loss counts once only comments learn; videos' then only says what must not get worse
_COMMENTS_COUNT = 4.0


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
    losses = Losses(corpus, split, tables, config, random)
    result = Finetuned(model, tables, config, start=start)
    # A model that knows nothing is in the curve to compare with, not to be chosen; one that counted or was aligned may.
    fallback = 1 if start.startswith(TEXT_START) and not aligned else 0
    run = _Run(result, validator, losses, samples, random, report)
    id_rate = 1.0 if start.startswith(TEXT_START) else config.id_rate
    run.train(_optimizer(model, config, id_rate, losses.scale), fallback)
    if tables.crossed is not None and config.task == "joint":
        _leave_to_comments(model)
        run.comment_weight = _COMMENTS_COUNT
        run.train(_optimizer(model, config, 1.0, losses.scale))
    model.eval()
    return result


class _Run:
    """Training, epoch by epoch; `result` has the best model after each call of `train`."""

    def __init__(
        self,
        result: Finetuned,
        validator: Validator,
        losses: Losses,
        samples: Samples,
        random: np.random.Generator,
        report: Callable[[Progress], None],
    ) -> None:
        self.result, self.validator, self.losses = result, validator, losses
        self.samples, self.random, self.report = samples, random, report
        self.comment_weight = 1.0
        self.began, self.seen = time.perf_counter(), 0

    def train(self, optimizer: torch.optim.Optimizer, fallback: int = -1) -> None:
        """Until validation has seen nothing better for a while. Epochs up to `fallback` are better than none."""
        result, config, model = self.result, self.result.config, self.result.model
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
        mean = cast(SR, averaged.module)
        best, first = copy(model), len(result.curve)
        gained = first - 1
        for epoch in range(first, first + config.epochs + (first == 0)):
            batches = list(_batches(self.samples, config, self.random)) if epoch else []
            total = self._epoch(epoch, first + config.epochs, batches, optimizer, averaged)
            score = self.validator(mean)
            seconds = time.perf_counter() - self.began
            loss, video, comment, contrast = (float(part) for part in total)
            result.curve.append(
                Epoch(epoch, loss, video, comment, contrast, score.video, score.comment, score.joint, seconds)
            )
            if epoch <= fallback or score.joint > result.curve[result.best_epoch].score:
                result.best_epoch = gained = epoch
                best = copy(mean)
            elif epoch - gained >= config.patience:
                break
        model.load_state_dict(best)
        result.samples_per_second = self.seen / max(1e-9, time.perf_counter() - self.began)

    def _epoch(
        self,
        epoch: int,
        epochs: int,
        batches: list[np.ndarray],
        optimizer: torch.optim.Optimizer,
        averaged: AveragedModel,
    ) -> np.ndarray:
        """The means [4] of the loss and its three parts."""
        model, total = self.result.model, np.zeros(4)
        weights = torch.tensor([1.0, self.comment_weight, 1.0], device=model.scale.device)
        model.train()
        for number, rows in enumerate(batches, 1):
            parts = self.losses(model, self.samples.take(rows))
            loss = (weights * parts).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            averaged.update_parameters(model)
            total += np.array([loss.item(), *parts.tolist()]) / len(batches)
            self.seen += len(rows)
            rate = self.seen / (time.perf_counter() - self.began)
            best = max((point.score for point in self.result.curve), default=0.0)
            self.report(Progress(epoch, epochs, number, len(batches), loss.item(), best, rate))
        return total


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


def _leave_to_comments(model: SR) -> None:
    """Let nothing learn any more but what is comments' own."""
    own = {id(parameter) for parameter in (model.comment_text, *model.encoder.of_comments())}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in own)


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


def _batches(samples: Samples, config: FinetuneConfig, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of one epoch's batches. Batches hold histories of similar length, so that little padding is computed."""
    rows = random.permutation(len(samples))[: config.epoch_samples]
    length = (samples.video_end - samples.video_start) + (samples.comment_end - samples.comment_start)
    rows = rows[np.argsort(length[rows], kind="stable")]
    cuts = np.arange(config.batch, len(rows), config.batch)
    batches = np.split(rows, cuts)
    for i in random.permutation(len(batches)):
        yield batches[i]
