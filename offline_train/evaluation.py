"""Rank every target of a split's test part with any number of scorers, under any number of protocols.

    split = temporal_split(corpus)
    scorers = baselines("video", log, corpus, training_events(log, corpus, split))
    for result in evaluate(log, corpus, split, scorers):
        print(result.model, result.protocol, result.values["ndcg@10"])

Weights and statistics stand still during the test part; histories and everything "as of the event" go on with the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offline_train.baselines import Scorer
from offline_train.corpus import Corpus, Split
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.metrics import Ranks, rank_lists, rank_rows, summary
from offline_train.protocols import REASONS, Candidates, Ints, Protocols, Queries

KIND = {"video": VIEW, "comment": INTERACTION}
PRESENT = "it ranks what exists at the moment, and here also competes what is yet to come"
LEAK = "a leak here: the target is written by the event itself, so it is always the newest"


@dataclass(frozen=True)
class Result:
    """One scorer under one protocol.

    values: `ndcg@10` and so on; empty where `note` says why the scorer does not stand here.
    counts: how many test targets were ranked, and how many were not for which reason (`protocols.REASONS`).
    candidates: the mean number of candidates per ranked target.
    ranks: of the ranked targets, in the order of the log. Which targets those are depends on the protocol and not on
        the scorer, so two scorers can be compared target by target.
    when_ms: [ranked], Unix ms; the moments that were asked about, in the same order.
    """

    task: str
    protocol: str
    split: str
    model: str
    values: dict[str, float]
    counts: dict[str, int]
    candidates: float = float("nan")
    note: str = ""
    ranks: Ranks = field(default_factory=lambda: Ranks.join([]), repr=False)
    when_ms: Ints = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)


@dataclass
class _Tally:
    """What accumulates per protocol. `ranks` are by the scorer's place: scorers of several seeds share one name."""

    counts: Counter[str] = field(default_factory=Counter)
    candidates: int = 0
    ranks: dict[int, list[Ranks]] = field(default_factory=dict)
    when_ms: list[Ints] = field(default_factory=list)


def training_events(log: Log, corpus: Corpus, split: Split) -> NDArray[np.bool_]:
    """Which events may be fitted on, bool [events].

    Temporal: those before the validation part. Leave-one-out: each user's before their first held-out one.
    """
    if split.name == "temporal":
        return np.asarray(log.ts_ms < split.valid_ms)
    held = np.concatenate([split.valid, split.test])
    horizon = np.full(len(log.user_ids), log.events, np.int64)
    np.minimum.at(horizon, corpus.samples.user[held], corpus.samples.event_index[held])
    return np.asarray(np.arange(log.events) < horizon[log.user])


def targets_are_new(log: Log, corpus: Corpus, rows: Ints) -> bool:
    """Whether comment targets are mostly written by the very event that is asked about (reviews, not likes).

    Then no target existed before its event: as-of ranking is impossible, and any feature of time would give it away.
    """
    comments = rows[corpus.samples.kind[rows] == INTERACTION]
    return len(comments) > 0 and float(log.wrote()[corpus.samples.event_index[comments]].mean()) > 0.5


def evaluate(
    log: Log,
    corpus: Corpus,
    split: Split,
    scorers: Sequence[Scorer],
    *,
    protocols: Sequence[str] = ("full", "as-of"),
    part: str = "test",
    seed: int = 0,
    limit: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Rank the targets of a part (`test` or `valid`) with every scorer, each on the samples of its task.

    Candidates are built once per batch and scored once per scorer, for all protocols. Where comment targets are new
    (`targets_are_new`), that task has the protocol `full` alone, and scorers that read creation times are left out,
    with a note.

    Args:
        seed: of the candidates that `sampled` draws.
        limit: at most so many targets per task, evenly spread.
        advance: called with (done, total) after each batch.

    Raises:
        ValueError: an unknown protocol, or a scorer that returns NaN or a wrong shape.
    """
    builder = Protocols(log, seed=seed)
    rows = np.asarray(getattr(split, part), np.int64)
    chosen = {task: _thin(rows[corpus.samples.kind[rows] == kind], limit) for task, kind in KIND.items()}
    by_task = {task: [s for s in scorers if s.task == task] for task in KIND}
    total = sum(len(chosen[task]) for task in KIND if by_task[task])
    results: list[Result] = []
    done = 0
    for task, mine in by_task.items():
        if not mine:
            continue
        new = task == "comment" and targets_are_new(log, corpus, rows)
        tallies = {name: _Tally() for name in (["full"] if new else protocols)}
        notes = {name: [_unable(s, name, new) for s in mine] for name in tallies}
        for queries, target in builder.batches(task, corpus.samples, chosen[task]):
            scored = {
                at: _scored(scorer, queries, len(log.video_ids))
                for at, scorer in enumerate(mine)
                if not all(notes[name][at] for name in tallies)
            }
            for protocol, tally in tallies.items():
                able = {at: scores for at, scores in scored.items() if not notes[protocol][at]}
                _count(tally, queries, target, builder.candidates(protocol, queries, target), able)
            done += len(queries)
            if advance:
                advance(done, total)
        results += [
            _result(task, protocol, split, scorer.name, tally, at, notes[protocol][at])
            for protocol, tally in tallies.items()
            for at, scorer in enumerate(mine)
        ]
    return results


def _count(
    tally: _Tally,
    queries: Queries,
    target: Ints,
    candidates: Candidates,
    scored: dict[int, NDArray[np.floating]],
) -> None:
    """Rank one batch under one protocol. Targets that are not eligible are counted and left out."""
    reasons = np.bincount(candidates.reason, minlength=len(REASONS))
    tally.counts.update({name: int(count) for name, count in zip(REASONS, reasons, strict=True)})
    kept = np.flatnonzero(candidates.reason == 0)
    if not len(kept):
        return
    if queries.task == "video":
        allowed = candidates.allowed[kept]
        for at, scores in scored.items():
            tally.ranks.setdefault(at, []).append(rank_rows(scores[kept], target[kept], allowed))
    else:
        cells = np.repeat(candidates.reason == 0, np.diff(queries.starts))
        allowed = candidates.allowed[cells]
        starts = np.concatenate([[0], np.cumsum(np.diff(queries.starts)[kept])])
        place = starts[:-1] + target[kept] - queries.starts[kept]
        for at, scores in scored.items():
            tally.ranks.setdefault(at, []).append(rank_lists(scores[cells], starts, place, allowed))
    tally.candidates += int(allowed.sum())
    tally.when_ms.append(queries.ts_ms[kept])


def _unable(scorer: Scorer, protocol: str, new: bool) -> str:
    """Why a scorer does not stand under a protocol; "" if it does."""
    if new and getattr(scorer, "reads_creation", False):
        return LEAK
    return "" if protocol in getattr(scorer, "protocols", (protocol,)) else PRESENT


def _result(task: str, protocol: str, split: Split, model: str, tally: _Tally, at: int, note: str) -> Result:
    counts = {name: tally.counts[name] for name in REASONS}
    mean = tally.candidates / max(1, counts["ranked"])
    if note:
        return Result(task, protocol, split.name, model, {}, counts, mean, note)
    ranks = Ranks.join(tally.ranks.get(at, []))
    when_ms = np.concatenate([np.zeros(0, np.int64), *tally.when_ms])
    return Result(task, protocol, split.name, model, summary(ranks), counts, mean, ranks=ranks, when_ms=when_ms)


def _scored(scorer: Scorer, queries: Queries, videos: int) -> NDArray[np.floating]:
    scores = np.asarray(scorer.scores(queries))
    shape = (len(queries), videos) if queries.task == "video" else (len(queries.comments),)
    if scores.shape != shape:
        raise ValueError(f"{scorer.name} gave scores of shape {scores.shape}; {shape} was expected")
    return scores


def _thin(rows: Ints, limit: int | None) -> Ints:
    if limit is None or len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
