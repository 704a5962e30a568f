"""From a log to a served model: read, split, text, train, export, measure, publish (`lsvcr train fit`).

fitted = fit("data/hetrec", "registry")
fitted.version, fitted.metrics["test"]["video full"]["LSVCR"]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from model_runtime.bundle import Bundle
from model_runtime.registry import Registry
from offline_train.baselines import Scorer, baselines
from offline_train.corpus import Corpus, Split, leave_one_out, temporal_split
from offline_train.curves import draw_curves
from offline_train.deployed import BundleScorer
from offline_train.distill import DistillConfig
from offline_train.evaluation import evaluate, training_events
from offline_train.export import export, train_student, with_metrics
from offline_train.finetuning import Finetuned, finetune_best
from offline_train.finetuning_config import FinetuneConfig, Progress
from offline_train.live_fitting import Choice, live_section
from offline_train.live_scorer import live_scorers
from offline_train.log import Log
from offline_train.reference import Reference
from offline_train.text import text_vectors

SplitName = Literal["temporal", "leave-one-out"]
#: of the test's metrics, what a release carries; the report has them all
_HEADLINE = "ndcg@10"


@dataclass(frozen=True)
class Fitted:
    """What a run left behind. `channel` is None if nothing was promoted."""

    version: str
    bundle: Path
    checkpoint: Path
    report: Path
    curves: Path
    channel: str | None
    best_epoch: int
    seconds: float
    samples_per_second: float
    metrics: dict[str, Any]  #: `validation`, and `test`: {"video full": {model: ndcg@10}, ...} unless it was left out


def fit(
    log_dir: str | Path,
    registry_dir: str | Path,
    *,
    config: FinetuneConfig | None = None,
    text: str = "svd",
    split_name: SplitName = "temporal",
    channel: str | None = "stable",
    test: bool = True,
    student: bool = True,
    live: bool = True,
    columns: str | Path | None = None,
    stage: Callable[[str], None] = lambda what: None,
    progress: Callable[[Progress], None] = lambda point: None,
) -> Fitted:
    """Train on a log and publish the result.

    The bundle that is published is the one that was measured. Reports and checkpoints lie beside the registry's
    bundles, in `reports/VERSION/` and `checkpoints/VERSION.pt`.

    Args:
        channel: what to promote the new version on; None publishes only.
        test: rank the test part with the bundle and every baseline.
        student: distil an encoder for titles and comments that come later; without one they can't be recommended.
        live: train `f`, what is added to scores by live signals (temporal split only: it learns from the newest part).
        columns: where the columns of events and samples are kept as files, for a log that is larger than memory.
        stage: told what is being done, for people.
        progress: told after every batch.

    Raises:
        LogError: the log can't be read.
        ValueError: it holds too little for the split or the task.
    """
    config = config or FinetuneConfig()
    registry_dir = Path(registry_dir)
    registry = Registry(registry_dir)
    stage(f"reading {log_dir}")
    corpus = Corpus.read(log_dir, columns)
    log = corpus.log
    split = temporal_split(corpus) if split_name == "temporal" else leave_one_out(corpus)
    stage(f"text vectors of {len(log.video_ids):,} titles and {len(log.comment_ids):,} comments")
    texts = text_vectors(log, text, split.valid_ms, config.seed)
    stage(f"training on {len(split.train):,} samples")
    finetuned = finetune_best(corpus, split, texts, config, report=progress)

    distilled = None
    if student:
        stage("distilling the student text encoder")
        distilling = DistillConfig(seed=config.seed, threads=config.threads)
        distilled = train_student(finetuned, corpus, split, distilling)

    registry_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fit-", dir=registry_dir) as scratch:
        stage("exporting")
        bundle = export(finetuned, corpus, split, texts, Path(scratch) / "bundle", student=distilled)
        choices: list[Choice] = []
        if live and split.name == "temporal":
            stage("training live signals on the validation part")
            section, choices = live_section(_srs(bundle, log, corpus, config), log, corpus, split, report=stage)
            bundle = with_metrics(bundle, Path(scratch) / "live", {}, section)
        results: list[dict[str, Any]] = []
        if test:
            stage(f"ranking {len(split.test):,} test targets with the model and the baselines")
            results = _test(log, corpus, split, bundle, config)
            bundle = with_metrics(bundle, Path(scratch) / "measured", {"test": _headlines(results)})
        stage("publishing")
        version = registry.publish(bundle.path)
        metrics = bundle.manifest.metrics
    reports = registry_dir / "reports" / version
    fitted = Fitted(
        version=version,
        bundle=registry.path(version),
        checkpoint=Reference.of(finetuned, corpus).save(registry_dir / "checkpoints" / f"{version}.pt"),
        report=reports / "report.json",
        curves=draw_curves(finetuned, reports / "curves.png"),
        channel=registry.promote(channel, version).channel if channel else None,
        best_epoch=finetuned.best_epoch,
        seconds=finetuned.curve[-1].seconds,
        samples_per_second=finetuned.samples_per_second,
        metrics=metrics,
    )
    fitted.report.write_bytes(
        msgspec.json.format(msgspec.json.encode(_report(fitted, finetuned, corpus, results, choices)))
    )
    return fitted


def _test(log: Log, corpus: Corpus, split: Split, bundle: Bundle, config: FinetuneConfig) -> list[dict[str, Any]]:
    tasks = _tasks(config)
    training = training_events(log, corpus, split)
    scorers: list[Scorer] = []
    for task in tasks:
        scorers += baselines(task, log, corpus, training, config.seed)
    srs = _srs(bundle, log, corpus, config)
    scorers += [*srs, *live_scorers(srs, bundle.live, log, corpus, training)]
    fields = ("task", "protocol", "split", "model", "values", "counts", "candidates", "note")
    return [{name: getattr(result, name) for name in fields} for result in evaluate(log, corpus, split, scorers)]


def _tasks(config: FinetuneConfig) -> tuple[str, ...]:
    return ("video", "comment") if config.task == "joint" else (config.task,)


def _srs(bundle: Bundle, log: Log, corpus: Corpus, config: FinetuneConfig) -> list[BundleScorer]:
    return [BundleScorer(bundle, log, corpus, task, threads=config.threads) for task in _tasks(config)]


def _headlines(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for result in results:
        if _HEADLINE in result["values"]:
            row = table.setdefault(f"{result['task']} {result['protocol']}", {})
            row[result["model"]] = round(result["values"][_HEADLINE], 5)
    return table


def _report(
    fitted: Fitted, finetuned: Finetuned, corpus: Corpus, results: list[dict[str, Any]], choices: list[Choice]
) -> dict[str, Any]:
    log = corpus.log
    return {
        **{name: str(value) if isinstance(value, Path) else value for name, value in asdict(fitted).items()},
        "log": {
            "users": len(log.user_ids),
            "videos": len(log.video_ids),
            "comments": len(log.comment_ids),
            "events": log.events,
            "samples": len(corpus.samples),
        },
        "config": asdict(finetuned.config),
        "model": asdict(finetuned.model.config),
        "history": msgspec.structs.asdict(corpus.config),
        "curve": [asdict(point) for point in finetuned.curve],
        "live": {choice.task: choice.chosen_by for choice in choices},
        "results": results,
    }
