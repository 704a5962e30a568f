"""A small student text encoder, distilled from the trained model's text vectors (`lsvcr.md` §6).

The teacher is any table from texts to vectors, such as A t(x) of a large language model. The student reads hashed words
and pieces of words (`model_runtime.hashing`), so that it can embed a title or a comment in microseconds as it arrives.

    distilled = distill(texts, vectors)
    distilled.student.encode(["a title that nobody has seen"])  # [1, d]

A comment is ranked by a cosine, but histories are means of vectors, and teacher's and student's stand side by side: so
the loss asks for the direction, and for the length and the mean as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.hashing import Features, features
from model_runtime.text import FLOOR, Student

#: how far the mean of few texts is trusted: a feature's first vector is its texts' sum over (their number + this)
_DOUBT = 3.0
#: sums of the first vectors should be large beside `FLOOR`, and small enough for Adam's steps to matter
_FIRST = 0.3


@dataclass(frozen=True)
class DistillConfig:
    """`samples` bounds the time whatever the corpus' size."""

    bits: int = 16  #: 2^bits buckets of features: 4 MB with d = 64
    samples: int = 100_000  #: texts seen in training, repetitions included
    texts: int = 200_000  #: at most so many distinct texts are used
    held_out: float = 0.05  #: part of the texts that is only measured on
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Distilled:
    """The student as it is deployed, and how near it comes to the teacher on texts held out of its training.

    metrics: `texts`, `held_out` (numbers of texts), `cosine` and `cosine_p10` (mean, and 10th percentile), `length`
        (mean length over the teacher's), `shift` (distance of the two means over the root mean square of the teacher's
        lengths), `seconds`. Those of `comments` have `comment_` before their names, but for the seconds, of both.
    """

    student: Student
    metrics: dict[str, float]
    comments: Student | None = None  #: of comments' texts, where these have a map of their own


class Network(nn.Module):
    """The student in PyTorch: a vector per bucket, summed, brought to unit length, mapped to d."""

    def __init__(self, table: Tensor) -> None:
        """table: [2^bits, d], the vectors to start from."""
        super().__init__()
        self.bag = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum")
        self.out = nn.Linear(table.shape[1], table.shape[1])
        nn.init.eye_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, buckets: Tensor, starts: Tensor) -> Tensor:
        """Flat buckets and where each text's begin, [n] -> [n, d]."""
        sums = self.bag(buckets, starts)
        length = sums.norm(dim=1, keepdim=True)
        return F.linear(sums / (length + FLOOR), self.out.weight) + self.out.bias * length / (length + FLOOR)


def distill(
    texts: Sequence[str],
    vectors: np.ndarray,
    config: DistillConfig | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Distilled:
    """Train a student. Deterministic for one seed and one thread count.

    Args:
        texts: n texts, of which repeated ones are used once.
        vectors: float32 [n, d], the teacher's; texts that it knows nothing of, with a zero row, are left out.
        report: called with (texts seen, texts to see).

    Raises:
        ValueError: not one vector per text.
    """
    config = config or DistillConfig()
    if len(texts) != len(vectors):
        raise ValueError(f"{len(texts)} texts but {len(vectors)} vectors")
    began = time.perf_counter()
    torch.set_num_threads(config.threads)
    random = np.random.default_rng(config.seed)
    chosen, wanted, held = _choose(texts, vectors, config, random)
    scale = float(np.sqrt(np.mean(np.sum(wanted**2, axis=1)))) if len(wanted) else 1.0
    learned = features([chosen[i] for i in np.flatnonzero(~held)], config.bits)
    targets = wanted[~held] / scale
    network = Network(torch.from_numpy(_first_table(learned, targets, config.bits)))
    _train(network, learned, torch.from_numpy(targets), config, random, report)
    student = quantised(network, scale)
    metrics = agreement(student, [chosen[i] for i in np.flatnonzero(held)], wanted[held])
    return Distilled(student, {"texts": len(targets)} | metrics | {"seconds": time.perf_counter() - began})


def agreement(student: Student, texts: Sequence[str], vectors: np.ndarray) -> dict[str, float]:
    """How near the student's vectors are to the teacher's [n, d]; the names are explained in `Distilled`."""
    if not len(texts):
        return {"held_out": 0}
    given = student.encode(texts)
    given_length, length = np.linalg.norm(given, axis=1), np.linalg.norm(vectors, axis=1)
    cosine = np.sum(given * vectors, axis=1) / np.maximum(given_length * length, 1e-12)
    shift = np.linalg.norm(given.mean(0) - vectors.mean(0)) / max(1e-12, float(np.sqrt(np.mean(length**2))))
    return {
        "held_out": len(texts),
        "cosine": float(cosine.mean()),
        "cosine_p10": float(np.quantile(cosine, 0.1)),
        "length": float(given_length.mean() / max(1e-12, length.mean())),
        "shift": float(shift),
    }


def quantised(network: Network, scale: float) -> Student:
    """The network with its table in 8 bits, each row with a scale of its own; gives `scale` times its vectors."""
    table = network.bag.weight.detach().numpy()
    scales = (np.abs(table).max(axis=1) / 127).astype(np.float32)
    rows = np.divide(table, scales[:, None], out=np.zeros_like(table), where=scales[:, None] > 0)
    return Student(
        table=np.rint(rows).astype(np.int8),
        scales=scales,
        weight=np.ascontiguousarray(network.out.weight.detach().numpy().T * np.float32(scale)),
        bias=network.out.bias.detach().numpy() * np.float32(scale),
    )


def _choose(
    texts: Sequence[str], vectors: np.ndarray, config: DistillConfig, random: np.random.Generator
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct texts that the teacher knows, their vectors, and which are held out of training, bool [n]."""
    first = {text: i for i, text in reversed(list(enumerate(texts))) if text.strip()}
    rows = np.array(sorted(first.values()), np.int64)
    rows = rows[np.any(vectors[rows] != 0, axis=1)] if len(rows) else rows
    rows = np.sort(random.permutation(rows)[: config.texts])
    held = np.zeros(len(rows), bool)
    held[random.permutation(len(rows))[: int(config.held_out * len(rows))]] = True
    return [texts[i] for i in rows], vectors[rows].astype(np.float32), held


def _first_table(learned: Features, targets: np.ndarray, bits: int) -> np.ndarray:
    """[2^bits, d]: for each bucket the mean vector of the texts that have it, shrunk where these are few."""
    texts = np.repeat(np.arange(len(targets)), np.diff(learned.starts))
    counts = csr_matrix((np.ones(len(texts), np.float32), (learned.buckets, texts)), shape=(1 << bits, len(targets)))
    return (_FIRST * (counts @ targets) / (counts.sum(axis=1).A1[:, None] + _DOUBT)).astype(np.float32)


def _train(
    network: Network,
    learned: Features,
    targets: Tensor,
    config: DistillConfig,
    random: np.random.Generator,
    report: Callable[[int, int], None],
) -> None:
    size = min(config.batch, len(targets))
    steps = config.samples // size if size else 0
    if not steps:
        return
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps, pct_start=0.1)
    order, at = random.permutation(len(targets)), 0
    for step in range(1, steps + 1):
        if at + size > len(order):
            order, at = random.permutation(len(targets)), 0
        rows = order[at : at + size]
        at += size
        given, wanted = network(*_bags(learned, rows)), targets[torch.from_numpy(rows)]
        # Not the squared distance, which would make what the student is unsure of too short.
        length = (given.norm(dim=1) - wanted.norm(dim=1)).square()
        loss = (1 - F.cosine_similarity(given, wanted) + length / 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        report(step * size, steps * size)


def _bags(learned: Features, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The features of some texts as the network takes them."""
    first, last = learned.starts[rows], learned.starts[rows + 1]
    ends = np.cumsum(last - first)
    starts = ends - (last - first)
    at = np.arange(ends[-1]) + np.repeat(first - starts, last - first)
    return torch.from_numpy(learned.buckets[at]), torch.from_numpy(starts.astype(np.int32))
