"""Amazon Beauty under the literature's protocol: leave-one-out, full ranking, items already had ranked last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from offline_train.baselines import CoOccurrence
from offline_train.deployed import NAME
from offline_train.evaluation import Result
from offline_train.metrics import Ranks, summary
from offline_train.protocols import ragged
from offline_train.report import Study
from offline_train.sources import amazon_beauty
from offline_train.sources.amazon_beauty import Sequences
from offline_train.study import recbole, sequences
from offline_train.study.sequences import SequenceConfig, rank_last, rank_unseen, train

DATA, SLUG, FOLDER = "Amazon Beauty", "amazon-beauty", "amazon-beauty"
MODEL = f"{NAME} (ids alone)"
PROTOCOL = "full, unseen"
#: of RecBole's SASRec, unless it stops earlier: one takes six minutes of a core
RECBOLE_EPOCHS = 22

#: `report(what)`
Report = Callable[[str], None]


def study(
    shared: Path, work: Path, seeds: int, *, threads: int = 1, recbole_seeds: int = 1, report: Report = print
) -> Study:
    """Every row of the data set; trainings are taken from `work` where the same code made them of the same data.

    Raises:
        SourceError, RecBoleError: see there.
    """
    data = amazon_beauty.read(shared / FOLDER)
    history, target = data.without_last(1), data.last()
    results = [_result(name, ranks) for name, ranks in _baselines(data, seeds)]
    ours: list[dict[str, Any]] = []
    for seed in range(seeds):
        report(f"{DATA}: training, seed {seed}")
        ranks, told = trained(data, SequenceConfig(seed=seed, threads=threads), work, report)
        results.append(_result(MODEL, ranks))
        ours.append(told)
    facts = [
        f"{len(data):,} users, {data.count:,} items, {len(data.items):,} interactions; ids alone, in order of time.",
        "Leave-one-out: each user's last item is the target, the one before chose the epoch.",
        f"{MODEL} is the SR without text and without comments, trained at every position of a sequence at once.",
        _speed(ours, MODEL),
    ]
    for seed in range(recbole_seeds):
        report(f"{DATA}: RecBole, seed {seed}")
        epochs: list[Mapping[str, Any]] = []
        given = {"seed": seed, "threads": threads, "epochs": RECBOLE_EPOCHS}
        found = recbole.run(_task(data), given, work, epochs.append)
        results.append(_result(recbole.NAME, rank_unseen(_dot(found), history, target)))
        curve = [e for e in epochs if "epoch" in e]
        facts += [_speed([{"curve": curve}], recbole.NAME), course(curve, RECBOLE_EPOCHS)]
    made = f"{MODEL} is trained from scratch with {seeds} seed{'s' * (seeds > 1)}: `lsvcr evaluate results`."
    return Study(DATA, SLUG, results, facts, how=[made])


def trained(
    data: Sequences, config: SequenceConfig, work: Path, report: Report = print
) -> tuple[Ranks, dict[str, Any]]:
    """The ranks of the test items by one training, and how it went."""
    code = b"".join((Path(sequences.__file__).parent.parent / n).read_bytes() for n in ("sr.py", "cooccurrence.py"))
    key = hashlib.sha256(code + Path(sequences.__file__).read_bytes() + repr(config).encode() + data.items.tobytes())
    path = work / f"{SLUG}-ids-{config.seed}-{key.hexdigest()[:12]}.npz"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        found = train(data, config, lambda e: report(f"{DATA}, seed {config.seed}, epoch {e.epoch}"))
        ranks = rank_last(found.model, data)
        told = {
            "start": found.start,
            "best_epoch": found.best_epoch,
            "curve": [asdict(point) for point in found.curve],
        }
        part = path.with_name(f".{path.name}")
        with part.open("wb") as file:
            np.savez(file, above=ranks.above, tied=ranks.tied, told=np.array(json.dumps(told)))
        part.replace(path)
    with np.load(path) as arrays:
        return Ranks(arrays["above"], arrays["tied"]), json.loads(str(arrays["told"]))


def _baselines(data: Sequences, seeds: int) -> list[tuple[str, Ranks]]:
    history, target = data.without_last(1), data.last()
    training = data.without_last(sequences.HELD_OUT)
    counts = np.bincount(training.items, minlength=data.count).astype(np.float64)
    rows = []
    for seed in range(seeds):
        rows.append(("random", rank_unseen(_random(data.count, seed), history, target)))
    popular = rank_unseen(lambda u: np.broadcast_to(counts, (len(u), data.count)), history, target)
    rows.append(("popularity (all time)", popular))
    for name, half_life in (("item-kNN", None), ("item-kNN (recent)", 2.0)):
        core = CoOccurrence(training.user, training.items, len(data), data.count, half_life)

        def scores(users: np.ndarray, core: CoOccurrence = core) -> np.ndarray:
            flat, starts = ragged(history.offsets[users], history.offsets[users + 1])
            return core.scores(history.items[flat], starts)

        rows.append((name, rank_unseen(scores, history, target)))
    return rows


def _dot(found: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Users to the scores of RecBole's vectors."""
    return lambda users: np.where(found["known"], found["users"][users] @ found["items"].T, -np.inf)


def _random(count: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    return lambda users: random.random((len(users), count))


def _task(data: Sequences) -> dict[str, np.ndarray]:
    """RecBole's samples: one per item after a user's first, as its own augmentation makes them."""
    task: dict[str, np.ndarray] = {"count": np.array(data.count)}
    training, until_valid = data.without_last(sequences.HELD_OUT), data.without_last(1)
    place = np.arange(len(training.items)) - np.repeat(training.offsets[:-1], np.diff(training.offsets))
    every = np.flatnonzero(place > 0)
    for name, of, ends in (
        ("train", training, every),
        ("valid", until_valid, until_valid.offsets[1:] - 1),
        ("test", data, data.offsets[1:] - 1),
    ):
        flat, offsets = ragged(np.maximum(of.offsets[of.user[ends]], ends - recbole.LENGTH), ends)
        task[f"{name}_items"], task[f"{name}_offsets"] = of.items[flat], offsets
        if name != "test":
            task[f"{name}_target"] = of.items[ends]
    return task


def _result(model: str, ranks: Ranks) -> Result:
    counts = {"ranked": len(ranks)}
    return Result("video", PROTOCOL, "leave-one-out", model, summary(ranks), counts, float("nan"), ranks=ranks)


def course(curve: Sequence[Mapping[str, Any]], limit: int) -> str:
    """How RecBole's training went: where it was best on the validation part, and what ended it."""
    reached = [float(point["valid"]["ndcg@10"]) for point in curve]
    best = int(np.argmax(reached))
    ended = f"ended by its limit of {limit} epochs" if len(curve) >= limit else f"stopped by itself after {len(curve)}"
    every = ", ".join(f"{reached[i]:.4f} ({curve[i]['epoch']})" for i in range(4, len(curve), 5) if i != best)
    return (
        f"{recbole.NAME}: best after epoch {curve[best]['epoch']}, with a validation NDCG@10 of {reached[best]:.4f}; "
        f"{ended}. After others: {every or 'none'}."
    )


def _speed(runs: list[dict[str, Any]], name: str) -> str:
    epochs = [point for run in runs for point in run["curve"] if point["epoch"] > 0]
    if not epochs:
        return ""
    cpu, wall = (median(point[column] for point in epochs) for column in ("cpu_seconds", "seconds"))
    return f"{name}: {cpu:.0f} s of CPU ({wall:.0f} s) an epoch, the median of {len(epochs)} epochs."
