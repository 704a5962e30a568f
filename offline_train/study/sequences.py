"""The SR on ids alone, trained at every position at once: what benchmarks of the literature give is sequences of ids.

It is the same `SREncoder`, with an empty comment history and no text, so the cross layer adds nothing but its
feed-forward, and content is the id. `offline_train.finetuning` makes one sample of each target, since text, times and
two histories belong to it. Here all the targets of a user come out of one pass: the encoder is causal, and pooling and
profile of every prefix are one lower triangular matrix each, so `prefix_preferences` is exactly what
`SREncoder.forward` gives for each prefix. The loss is the same softmax over all items but those seen.

A batch is of users of every length, and its loss the mean over its targets. In batches of one length, which need no
padding, each step follows users of one kind, and the few targets of a batch of short histories weigh as much as the
many of long ones; so users of about a length are encoded together, and the softmax is over the whole batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offline_train.cooccurrence import cooccurrence_factors
from offline_train.metrics import Ranks, per_target, rank_rows
from offline_train.sources.amazon_beauty import Sequences
from offline_train.sr import SR, Side, SRConfig, SREncoder

HELD_OUT = 2  #: of each user: the last item is the test's, the one before is validation's
PRIORS = (3.0, 10.0)
HALF_LIVES = (8.0, 2.0)
CUTOFF = 10
_MASKED = -1e9
_RANKED = 512  #: users ranked at once
#: Users with histories between two of these are padded to the longest of them.
_LENGTHS = (4, 8, 16, 32)


@dataclass(frozen=True)
class SequenceConfig:
    """d = 64, two layers, two heads, dropout 0.5 and length 50, as in the literature's SASRec."""

    epochs: int = 100
    patience: int = 8  #: epochs without a better validation NDCG@10
    batch: int = 340  #: users, who have about 2 000 targets
    learning_rate: float = 1e-3
    id_rate: float = 0.3  #: ids that start from counts learn at this part of the rate
    weight_decay: float = 1e-5
    dropout: float = 0.5  #: of attention weights too
    averaging: float = (
        0.98  #: what is validated and kept is a running mean of the weights; so much is left after a step
    )
    profile: float = 3.0  #: where the weight of the profile residual starts
    window: int = 50
    temperature: float = 0.12  #: greater than where there is text: a sharper softmax learns its users by heart
    counts: bool = False  #: try the start from co-occurrence
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Epoch:
    """One point of the curve: mean loss, validation NDCG@10, and the time that training (not validation) took."""

    epoch: int
    loss: float
    valid_ndcg10: float
    seconds: float
    cpu_seconds: float


@dataclass
class Trained:
    """The best model of a run; epoch 0 of the curve is the start."""

    model: SR
    start: str
    curve: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0


def prefix_preferences(encoder: SREncoder, side: Side) -> Tensor:
    """The video preference after each position of a video history, with no comment history: [B, L, d].

    Row i is what `SREncoder.forward` gives for the first i + 1 entries, L2-normalised and over the temperature. Rows
    of padding hold numbers without a meaning.
    """
    length = side.present.shape[1]
    at = torch.arange(length, device=side.id.device)
    before = at[None, :] <= at[:, None]  # [L, L]: row i sees the entries up to i
    content = encoder.content(side)
    states = encoder.video_history(content, side.present, side.place)
    nothing = content.new_zeros(len(content), 1, content.shape[-1])
    cross = encoder.video_cross(states, nothing, torch.zeros(len(content), 1, 1, dtype=torch.bool))
    fused = encoder.video_fusion(torch.cat((states, cross), -1))
    pooling = encoder.pooling
    logits = pooling.score(F.gelu(pooling.norm(pooling.dropout(pooling.up(fused))))).squeeze(-1)  # [B, L]
    weights = logits.unsqueeze(1).masked_fill(~before, _MASKED).softmax(-1)  # [B, L, L]
    recency = torch.exp2(-(at[:, None] - at[None, :]).clamp(min=0) * torch.exp2(-encoder.video_half_life)) * before
    profile = (recency / recency.sum(1, keepdim=True)) @ content
    preference = encoder.video_prior + weights @ fused + encoder.video_profile * profile
    return F.normalize(preference, dim=-1) / encoder.temperature


def train(
    sequences: Sequences,
    config: SequenceConfig | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train on all but the last two items of each user, choose the epoch by the last but one.

    Raises:
        ValueError: a user has fewer than three items.
    """
    config = config or SequenceConfig()
    if (np.diff(sequences.offsets) <= HELD_OUT).any():
        raise ValueError("every user needs at least three items")
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    random = np.random.default_rng(config.seed)
    training, until_valid = sequences.without_last(HELD_OUT), sequences.without_last(1)
    model = SR(
        SRConfig(
            sequences.count,
            text_dim=1,
            window=config.window,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            profile=config.profile,
            temperature=config.temperature,
        )
    )
    model.known[:, 0] = torch.from_numpy(
        (np.bincount(training.items, minlength=sequences.count) > 0).astype(np.float32)
    )

    def score(model: SR) -> float:
        return float(per_target(rank_last(model, until_valid), "ndcg", CUTOFF).mean())

    found = Trained(model, _start(model, training, lambda: score(model), config))
    rate = config.id_rate if found.start.startswith("counts") else 1.0
    others = [weights for weights in model.parameters() if weights is not model.ids.weight]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": [model.ids.weight], "lr": config.learning_rate * rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
    mean = cast(SR, averaged.module)
    best: dict[str, Tensor] = {}
    for epoch in range(config.epochs + 1):
        loss, wall, cpu = 0.0, time.perf_counter(), time.process_time()
        if epoch:
            loss = train_epoch(model, training, optimizer, averaged, config, random)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        point = Epoch(epoch, loss, score(mean), wall, cpu)
        found.curve.append(point)
        report(point)
        if point.valid_ndcg10 > found.curve[found.best_epoch].valid_ndcg10 or not best:
            found.best_epoch, best = epoch, _copy(mean)
        elif epoch - found.best_epoch >= config.patience:
            break
    model.load_state_dict(best)
    return found


def train_epoch(
    model: SR,
    training: Sequences,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedModel,
    config: SequenceConfig,
    random: np.random.Generator,
) -> float:
    """One pass over all users; the mean loss of a target."""
    model.train()
    total, targets = 0.0, 0
    users = random.permutation(np.flatnonzero(np.diff(training.offsets) > 1))
    for first in range(0, len(users), config.batch):
        parts = by_length(training, users[first : first + config.batch], config.window + 1)
        loss = next_item_loss(model, parts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        averaged.update_parameters(model)
        count = sum(int(present[:, 1:].sum()) for _, present in parts)
        total, targets = total + loss.item() * count, targets + count
    return total / targets


def next_item_loss(model: SR, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Softmax cross-entropy of each item after the first, over all items but those before it; the mean over all parts.

    Args:
        parts: items and which are there, [B, L + 1] each; padding at the end. B and L may differ from part to part.
    """
    ids = model.id_vectors()
    preferences, wanted, rows, columns, count = [], [], [], [], 0
    for items, present in parts:
        shown, targets, there = items[:, :-1], items[:, 1:], present[:, 1:]
        row, place = there.nonzero(as_tuple=True)
        preferences.append(prefix_preferences(model.encoder, _side(ids, shown, present[:, :-1]))[row, place])
        wanted.append(target := targets[row, place])
        earlier = torch.arange(shown.shape[1])[None, :] <= place[:, None]
        at, column = (earlier & (shown[row] != target[:, None])).nonzero(as_tuple=True)
        rows.append(at + count)
        columns.append(shown[row[at], column])
        count += len(target)
    logits = torch.cat(preferences) @ F.normalize(ids, dim=-1).T  # [P, n]
    # In place: [P, n] is by far the largest thing here, and a copy would cost as much as the softmax.
    logits[torch.cat(rows), torch.cat(columns)] = -torch.inf
    return F.cross_entropy(logits, torch.cat(wanted))


@torch.inference_mode()
def rank_last(model: SR, sequences: Sequences) -> Ranks:
    """Where each user's last item comes among those that are not before it."""
    model.eval()
    ids = model.id_vectors()
    candidates = F.normalize(ids, dim=-1).T
    history = sequences.without_last(1)
    target = sequences.last()

    def scores(users: np.ndarray) -> np.ndarray:
        items, present = padded(history, users, model.config.window)
        states = prefix_preferences(model.encoder, _side(ids, items, present))
        vectors = states[torch.arange(len(users)), present.sum(1) - 1]
        result: np.ndarray = (vectors @ candidates).numpy()
        return result

    return rank_unseen(scores, history, target)


def rank_unseen(scores: Callable[[np.ndarray], np.ndarray], history: Sequences, target: np.ndarray) -> Ranks:
    """Where each user's target comes among the items that are not in the history: the literature ranks those last.

    Args:
        scores: users [b] to their scores of all items, [b, count].
    """
    parts = []
    for first in range(0, len(history), _RANKED):
        users = np.arange(first, min(first + _RANKED, len(history)))
        allowed = np.ones((len(users), history.count), bool)
        low, high = history.offsets[users[0]], history.offsets[users[-1] + 1]
        row = np.repeat(np.arange(len(users)), np.diff(history.offsets[users[0] : users[-1] + 2]))
        allowed[row, history.items[low:high]] = False
        allowed[np.arange(len(users)), target[users]] = True
        parts.append(rank_rows(scores(users), target[users], allowed))
    return Ranks.join(parts)


def by_length(sequences: Sequences, users: np.ndarray, longest: int) -> list[tuple[Tensor, Tensor]]:
    """The newest items of some users (`padded`), those of about a length together."""
    lengths = np.diff(sequences.offsets)[users]
    order = np.argsort(lengths, kind="stable")
    cuts = np.searchsorted(lengths[order], np.array(_LENGTHS) + 1)
    return [padded(sequences, part, longest) for part in np.split(users[order], cuts) if len(part)]


def padded(sequences: Sequences, users: np.ndarray, longest: int) -> tuple[Tensor, Tensor]:
    """int64 [b, L] the newest items of some users, oldest first, 0 after the end; bool [b, L] which are there."""
    end = sequences.offsets[users + 1]
    start = np.maximum(sequences.offsets[users], end - longest)
    step = np.arange(max(1, int((end - start).max(initial=0))))
    there = step < (end - start)[:, None]
    at = np.where(there, start[:, None] + step, 0)
    return torch.from_numpy(np.where(there, sequences.items[at], 0)), torch.from_numpy(there)


def _side(ids: Tensor, items: Tensor, present: Tensor) -> Side:
    text = ids.new_zeros(()).expand(*items.shape, ids.shape[1])
    return Side(F.embedding(items, ids), text, text, present)


def _start(model: SR, training: Sequences, score: Callable[[], float], config: SequenceConfig) -> str:
    """Begin from counts, and with shorter half-lives, where that ranks the validation items better."""
    best, state, reached = "random", _copy(model), score()
    plain = state
    if config.counts:
        counts = np.bincount(training.items, minlength=training.count)
        popularity = torch.from_numpy(np.log1p(counts) / np.log1p(counts.max()))
        factors = cooccurrence_factors(
            training.user, training.items, training.count, model.config.dim - 1, seed=config.seed
        )
        for prior in PRIORS:
            model.load_state_dict(plain)
            model.start_from_counts(torch.from_numpy(factors), popularity, torch.zeros(training.count, 1), prior)
            if (found := score()) > reached:
                best, state, reached = f"counts, prior {prior:g}", _copy(model), found
        model.load_state_dict(state)
    half_life = model.encoder.video_half_life
    chosen = half_life.item()
    for positions in HALF_LIVES:
        half_life.data.fill_(math.log2(positions))
        if (found := score()) > reached:
            chosen, reached = half_life.item(), found
    half_life.data.fill_(chosen)
    return f"{best}, half-life {2**chosen:g}"


def _copy(model: SR) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
