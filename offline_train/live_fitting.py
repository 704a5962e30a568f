"""Training of `f` (`lsvcr.md` §7): the SR frozen, softmax cross-entropy over as-of candidates, a few seconds.

`f` learns from the validation part: it lies right before the test, and the SR was not trained on it. (On samples that
the SR was trained on, `f` would learn to trust it more than new events warrant.) Of that part, the newest third chooses
the half-lives and the form; then the choice is trained on all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.blend import Blend, Blender
from model_runtime.live_features import DAY_MS, USER_FEATURES
from model_runtime.live_section import LiveItems, LiveSection, LiveTask
from offline_train.corpus import Corpus, Split
from offline_train.evaluation import KIND, targets_are_new, training_events
from offline_train.live_asof import SR, AsOf, engagements
from offline_train.log import Log
from offline_train.protocols import Protocols

HOUR_MS = DAY_MS / 24
#: half-lives to choose from, shortest first
HALF_LIVES_MS: tuple[tuple[float, ...], ...] = (
    (HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS),
    (6 * HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS),
    (DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS),
    (3 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS),
)
HIDDEN = (0, 16)
CUTOFF = 10
#: candidates of a training step, of all its questions together
CELLS = 60_000


@dataclass(frozen=True)
class LiveConfig:
    """How `f` is trained."""

    half_lives_ms: tuple[tuple[float, ...], ...] = HALF_LIVES_MS
    hidden: tuple[int, ...] = HIDDEN
    samples: int = 4000  #: of the validation part at most, the newest
    holdout: float = 1 / 3  #: of those, the newest choose
    ridge: float = 1e-3  #: times the squared linear weights, added to the mean cross-entropy
    steps: int = 200  #: with a hidden layer, from the linear solution on
    learning_rate: float = 0.01
    weight_decay: float = 1e-2
    seed: int = 0


@dataclass(frozen=True)
class Choice:
    """What was chosen for a task, and what it reached on the samples that chose (NDCG@10), beside the SR alone."""

    task: str
    live: LiveTask
    hidden: int
    chosen_by: list[dict[str, Any]]


@dataclass(frozen=True)
class Lists:
    """n questions padded to the longest: features [n, C, F], SR scores [n, C], which exist, the target's place (-1: no
    source found it)."""

    features: NDArray[np.float32]
    sr: NDArray[np.float32]
    exists: NDArray[np.bool_]
    target: NDArray[np.int64]
    names: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> Lists:
        return replace(
            self,
            features=self.features[rows],
            sr=self.sr[rows],
            exists=self.exists[rows],
            target=self.target[rows],
        )

    def __len__(self) -> int:
        return len(self.target)


def fit_live(
    sr: SR,
    log: Log,
    corpus: Corpus,
    split: Split,
    config: LiveConfig | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> Choice | None:
    """Train `f` for the task of `sr`; None if the validation part holds too few targets for it.

    Where comment targets are written by their own event, no feature that reads a clock or a count takes part.
    """
    config = config or LiveConfig()
    time = not (sr.task == "comment" and targets_are_new(log, corpus, split.valid))
    training = training_events(log, corpus, split)
    best: tuple[float, tuple[float, ...], int] | None = None
    tried: list[dict[str, Any]] = []
    kept: dict[tuple[float, ...], Lists] = {}

    def attempt(half_lives: tuple[float, ...], hidden: int) -> None:
        nonlocal best
        early, late = (kept[half_lives].take(rows) for rows in _halves(len(kept[half_lives]), config.holdout))
        reached, alone = ndcg(scores(train(early, hidden, config), late), late), ndcg(late.sr, late)
        tried.append({"half_lives_ms": half_lives, "hidden": hidden, "ndcg@10": reached, "sr": alone})
        report(f"{sr.task}: half-lives {_days(half_lives)} days, {hidden} hidden: NDCG@10 {reached:.4f}")
        if best is None or reached > best[0]:
            best = (reached, half_lives, hidden)

    for half_lives in config.half_lives_ms if time else config.half_lives_ms[:1]:
        asof = AsOf(sr, log, corpus, training, half_lives, time=time)
        lists = collect(asof, log, corpus, split.valid, config.samples)
        if len(lists) < 30:
            return None
        kept[half_lives] = lists
        attempt(half_lives, config.hidden[0])
    assert best is not None
    for hidden in config.hidden[1:]:
        attempt(best[1], hidden)
    blend = train(kept[best[1]], best[2], config)
    return Choice(sr.task, LiveTask(list(best[1]), time, blend), best[2], tried)


def live_section(
    srs: Sequence[SR],
    log: Log,
    corpus: Corpus,
    split: Split,
    config: LiveConfig | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> tuple[LiveSection | None, list[Choice]]:
    """What a bundle of this log's catalog needs for live signals, and how it was chosen; None if there is too little.

    Args:
        srs: the bundle's SR, one per task.
    """
    choices = [choice for sr in srs if (choice := fit_live(sr, log, corpus, split, config, report)) is not None]
    if not choices:
        return None, []
    training = training_events(log, corpus, split)
    items = {
        kind: LiveItems(since.astype(np.int64), engagements(log, kind, training))
        for kind, since in (("video", log.first_seen_video), ("comment", log.first_seen_comment))
    }
    return LiveSection({choice.task: choice.live for choice in choices}, items), choices


def collect(asof: AsOf, log: Log, corpus: Corpus, rows: NDArray[np.int64], limit: int) -> Lists:
    """The newest `limit` questions of the part that as-of (or, without time, `full`) can rank, with their features."""
    builder = Protocols(log)
    chosen = rows[corpus.samples.kind[rows] == KIND[asof.task]][-limit:]
    features: list[NDArray[np.float32]] = []
    alone: list[NDArray[np.float32]] = []
    targets: list[int] = []
    for queries, target in builder.batches(asof.task, corpus.samples, chosen):
        candidates = builder.candidates("as-of" if asof.time else "full", queries, target)
        for asked in asof(queries):
            if candidates.reason[asked.row]:
                continue
            mine = candidates.allowed[asked.row] if asof.task == "video" else candidates.allowed
            keep = mine[asked.places]
            place = np.flatnonzero(asked.places[keep] == target[asked.row])
            features.append(asked.features[keep])
            alone.append(asked.sr[keep])
            targets.append(int(place[0]) if len(place) else -1)
    width = max((len(f) for f in features), default=1)
    n = len(features)
    lists = Lists(
        np.zeros((n, width, len(asof.names)), np.float32),
        np.zeros((n, width), np.float32),
        np.zeros((n, width), bool),
        np.array(targets, np.int64),
        asof.names,
    )
    for i, (one, sr) in enumerate(zip(features, alone, strict=True)):
        lists.features[i, : len(one)] = one
        lists.sr[i, : len(one)] = sr
        lists.exists[i, : len(one)] = True
    return lists


def train(lists: Lists, hidden: int, config: LiveConfig) -> Blend:
    """f of the given form, trained on lists whose target is among the candidates."""
    torch.manual_seed(config.seed)
    lists = lists.take(np.flatnonzero(lists.target >= 0))
    if not hidden:  # what is alike for all candidates changes no ranking where nothing multiplies it
        at = [i for i, name in enumerate(lists.names) if name not in USER_FEATURES]
        lists = replace(lists, features=lists.features[:, :, at], names=tuple(lists.names[i] for i in at))
    cells = lists.features[lists.exists]
    mean, scale = cells.mean(axis=0), cells.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0).astype(np.float32)
    x = torch.from_numpy((lists.features - mean) / scale)
    sr = torch.from_numpy(lists.sr)
    bar = torch.from_numpy(np.where(lists.exists, 0.0, -np.inf).astype(np.float32))
    target = torch.from_numpy(lists.target)
    model = _F(x.shape[-1], hidden)
    _fit_linear(model.linear, lambda: F.cross_entropy(sr + x @ model.linear + bar, target), config)
    if hidden:
        generator = torch.Generator().manual_seed(config.seed)
        size = min(len(x), max(64, CELLS // x.shape[1]))
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        for _ in range(config.steps):
            rows = torch.randperm(len(x), generator=generator)[:size]
            loss = F.cross_entropy(sr[rows] + model(x[rows]) + bar[rows], target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.blend(lists.names, mean, scale)


def _fit_linear(weights: nn.Parameter, loss: Callable[[], Tensor], config: LiveConfig) -> None:
    """The linear part is a convex problem: solved, not stepped towards."""
    optimizer = torch.optim.LBFGS([weights], max_iter=100, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss() + config.ridge * weights.square().sum()
        value.backward()
        return value

    optimizer.step(closure)


def scores(blend: Blend, lists: Lists) -> NDArray[np.float32]:
    """SR + f, [n, C]."""
    at = [lists.names.index(name) for name in blend.features]
    return np.asarray(lists.sr + Blender(blend)(lists.features[:, :, at]))


def ndcg(scored: NDArray[np.float32], lists: Lists, k: int = CUTOFF) -> float:
    """Mean NDCG@k; a target that no source found counts as 0. Ties count as half."""
    rows = np.arange(len(lists))
    own = scored[rows, lists.target][:, None]
    above = ((scored > own) & lists.exists).sum(axis=1) + (((scored == own) & lists.exists).sum(axis=1) - 1) / 2
    gain = np.where((above < k) & (lists.target >= 0), 1 / np.log2(above + 2), 0.0)
    return float(gain.mean())


class _F(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(features))
        self.first = nn.Linear(features, hidden) if hidden else None
        self.out = nn.Parameter(torch.randn(hidden) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        value = x @ self.linear
        if self.first is not None:
            value = value + torch.tanh(self.first(x)) @ self.out
        return value

    def blend(self, names: Sequence[str], mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Blend:
        first = self.first
        return Blend(
            list(names),
            mean.tolist(),
            scale.tolist(),
            self.linear.tolist(),
            first.weight.T.tolist() if first is not None else [],
            first.bias.tolist() if first is not None else [],
            self.out.tolist(),
        )


def _halves(n: int, holdout: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    cut = n - int(n * holdout)
    return np.arange(cut), np.arange(cut, n)


def _days(half_lives_ms: Sequence[float]) -> str:
    return "/".join(f"{value / DAY_MS:.3g}" for value in half_lives_ms)
