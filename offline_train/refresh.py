"""A refresh of the serving model, from the archive to its release; the recipe, top to bottom.

    plan       what to read (up to which offsets, so that a run that goes on reads the same), what serves now
    log        archive ► log ► histories ► split: the newest part to measure on, the part before it to choose on
    stage 1    the language model is aligned anew if it is due, else its last result is used again (if configured)
    text       text vectors of every title and comment
    train      stage 2, from the serving model's weights where they fit; then the student text encoder
    bundle     what would be deployed
    measure    the bundle and the serving one as workers would serve them, on the same held-out period
    gate       no worse on any task, within a margin; else nothing is published, and the report says why
    publish    registry, then the release (the caller's: `lsvcr train refresh` announces it to the workers)

What a stage leaves appears whole, and everything random has a seed: killed at any point and started again, a refresh
ends the same. Nothing that serves is touched before the gate is passed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec

from model_runtime.bundle import COMMENT_STUDENT, STUDENT, Bundle
from model_runtime.manifest import BundleError
from model_runtime.registry import Registry, RegistryError
from model_runtime.scorer import Scorer
from model_runtime.text import Student
from offline_train.archived import StoreError
from offline_train.corpus import Corpus, Split, choose_seen, temporal_split
from offline_train.curves import draw_curves
from offline_train.deployed import check_horizon, history_config
from offline_train.distill import Distilled
from offline_train.evaluation import Result, evaluate
from offline_train.export import export, train_student, with_metrics
from offline_train.finetuning import Finetuned, finetune, finetune_best
from offline_train.finetuning_config import Epoch, Progress
from offline_train.gate import CANDIDATE, SERVING, Decision, judge
from offline_train.log import Log
from offline_train.reference import CheckpointError, Reference
from offline_train.refresh_config import RefreshConfig, RefreshError
from offline_train.refresh_live import with_live
from offline_train.refresh_plan import Plan, done, note_release, plan_of, remember, was_released
from offline_train.refresh_report import report_of
from offline_train.refresh_texts import texts_of
from offline_train.served import served_scorers
from offline_train.stages import Work, threads
from offline_train.text import TextVectors
from offline_train.warm_start import config_for, weights_of
from streams.history import DEFAULT

log = logging.getLogger(__name__)

Outcome = Literal["published", "rejected", "skipped"]


@dataclass(frozen=True)
class Refreshed:
    """How a refresh ended. `report` and `curves` are files; None where there was nothing to report."""

    outcome: Outcome
    why: str
    version: str | None
    report: Path | None
    curves: Path | None
    seconds: float


def refresh(
    config: RefreshConfig,
    *,
    release: Callable[[Registry, str], None],
    stage: Callable[[str], None] = lambda what: None,
    progress: Callable[[Progress], None] = lambda point: None,
) -> Refreshed:
    """Run a refresh, or go on with one that was killed.

    Args:
        release: makes the channel serve a version that is in the registry.
        stage: told what is being done, for people.
        progress: told after every batch of training.

    Raises:
        RefreshError: another refresh is under way, the disk is full, or archive or registry don't answer. What serves
            is left alone, and the next call goes on after the last stage that is complete.
        LogError, ValueError: the archive holds too little to train on.
    """
    began = time.monotonic()
    with Work(config.work) as work, threads(config.finetuning().threads):
        try:
            return _refresh(config, work, release, stage, progress, began)
        except (RegistryError, StoreError) as error:
            raise RefreshError(f"{error}; start again later: nothing was released") from error


def _refresh(
    config: RefreshConfig,
    work: Work,
    release: Callable[[Registry, str], None],
    stage: Callable[[str], None],
    progress: Callable[[Progress], None],
    began: float,
) -> Refreshed:
    # --- plan -----------------------------------------------------------------------------------------------------
    stage("looking at what serves and what was archived")
    registry = Registry(config.registry, cache=work.folder / "bundles")
    plan = plan_of(config, work, registry)
    serving = registry.open(plan.serving) if plan.serving is not None else None
    new = sum(plan.offsets.values()) - sum(done(work).values())
    if new < config.fewest_new_events:
        work.clear()
        why = f"{new:,} new records since the last refresh; fewer than {config.fewest_new_events:,}"
        return Refreshed("skipped", why, None, None, None, time.monotonic() - began)

    # --- log ------------------------------------------------------------------------------------------------------
    stage(f"reading {config.archive}")
    kept = history_config(serving) if serving is not None else DEFAULT
    events = Log.read(config.archive, kept, since=plan.since, until=plan.offsets)
    corpus = Corpus.build(events, msgspec.structs.replace(kept, seen=max(kept.seen, choose_seen(events))))
    split = temporal_split(corpus, config.split.test, config.split.valid)

    # --- stage 1, text --------------------------------------------------------------------------------------------
    previous = _checkpoint(registry, plan.serving, work) if config.warm_start else None
    notes: list[str] = []
    stage(f"text vectors of {len(events.video_ids):,} titles and {len(events.comment_ids):,} comments")
    texts, previous = texts_of(config, work, events, corpus, split, previous, notes, stage)

    # --- train ----------------------------------------------------------------------------------------------------
    stage(f"training on {len(split.train):,} samples, from {plan.serving if previous else 'scratch'}")
    finetuned = _train(config, work, corpus, split, texts, previous, progress)

    # --- bundle, measure, gate ------------------------------------------------------------------------------------
    results: list[Result] = []
    bundle: Bundle | None = None
    try:
        stage("distilling the student text encoder, exporting")
        student = _student(config, work, finetuned, corpus, split)
        bundle = _bundle(work, plan, finetuned, corpus, split, texts, student)
        if config.live:
            stage("training live signals on the validation part")
            bundle = with_live(work, bundle, events, corpus, split, finetuned.config.threads, notes, stage)
        stage(f"measuring on {len(split.test):,} targets")
        results = _measure(config, events, corpus, split, bundle, serving, finetuned.config.threads)
        decision = judge(results, config.gate)
    except BundleError as error:
        decision = Decision(False, f"the candidate can't serve: {error}", config.gate.metric, config.gate.margin, [])
    if serving is not None and (warning := check_horizon(serving, split)):
        notes.append(f"{warning}, which makes it harder to beat")

    # --- publish --------------------------------------------------------------------------------------------------
    outcome: Outcome = "published" if decision.passes else "rejected"
    if decision.passes:
        assert bundle is not None
        stage(f"publishing {plan.version}")
        _publish(registry, work, bundle, decision)
        if not was_released(work):
            if (now := registry.serves(config.channel)) not in (plan.serving, plan.version):
                raise RefreshError(
                    f"{now} began to serve meanwhile, and {plan.serving} is what was compared; start again"
                )
            release(registry, plan.version)
            note_release(work)
    report = report_of(plan, config, outcome, decision, notes, events, corpus, split, finetuned, results, work.seconds)
    curves = draw_curves(finetuned, work.current / "curves.png")
    if decision.passes:
        registry.keep(f"reports/{plan.version}/report.json", report)
        registry.keep(f"reports/{plan.version}/curves.png", curves.read_bytes())
    remember(work, plan)
    folder = work.finish(plan.run, report, curves)
    version = plan.version if decision.passes else None
    files = folder / "report.json", folder / curves.name
    return Refreshed(outcome, decision.why, version, *files, time.monotonic() - began)


def _checkpoint(registry: Registry, version: str | None, work: Work) -> Reference | None:
    """The serving model as PyTorch has it, if its checkpoint was kept."""
    if version is None:
        return None

    def fetch(folder: Path) -> None:
        try:
            (folder / "checkpoint.pt").write_bytes(registry.kept(f"checkpoints/{version}.pt"))
        except FileNotFoundError:
            log.warning("no checkpoint of %s in the registry: training starts from scratch", version)

    file = work.stage("serving", fetch) / "checkpoint.pt"
    try:
        return Reference.load(file) if file.exists() else None
    except CheckpointError as error:
        log.warning("%s: training starts from scratch", error)
        return None


def _train(
    config: RefreshConfig,
    work: Work,
    corpus: Corpus,
    split: Split,
    texts: TextVectors,
    previous: Reference | None,
    progress: Callable[[Progress], None],
) -> Finetuned:
    """Stage 2; read back from what it left, whether it was done just now or before a kill."""
    settings = config.finetuning()

    def train(folder: Path) -> None:
        sr = config_for(previous, corpus.log, texts, corpus.config.window) if previous else None
        start = weights_of(previous, corpus.log.video_ids) if previous else None
        try:
            if start is None:
                trained = finetune_best(corpus, split, texts, settings, sr, progress)
            else:
                trained = finetune(corpus, split, texts, settings, sr, progress, initial=start)
        except ValueError as error:
            raise RefreshError(f"training failed, and nothing is published: {error}") from error
        Reference.of(trained, corpus).save(folder / "checkpoint.pt")
        about = {
            "curve": [asdict(point) for point in trained.curve],
            "best_epoch": trained.best_epoch,
            "start": trained.start,
            "samples_per_second": trained.samples_per_second,
        }
        (folder / "curve.json").write_bytes(msgspec.json.encode(about))

    folder = work.stage("model", train)
    reference = Reference.load(folder / "checkpoint.pt")
    about = msgspec.json.decode((folder / "curve.json").read_bytes())
    curve = [Epoch(**point) for point in about.pop("curve")]
    return Finetuned(reference.model, reference.tables, settings, curve, **about)


def _student(config: RefreshConfig, work: Work, finetuned: Finetuned, corpus: Corpus, split: Split) -> Distilled | None:
    """What gives vectors to titles and comments that come later."""
    settings = config.distilling()
    if settings is None:
        return None

    def make(folder: Path) -> None:
        distilled = train_student(finetuned, corpus, split, settings)
        for name, student in ((STUDENT, distilled.student), (COMMENT_STUDENT, distilled.comments)):
            if student is not None:
                (folder / name).write_bytes(student.to_bytes())
        # Not how long it took: the same refresh makes the same bundle.
        metrics = {name: value for name, value in distilled.metrics.items() if name != "seconds"}
        (folder / "metrics.json").write_bytes(msgspec.json.encode(metrics))

    folder = work.stage("student", make)
    dim, metrics = finetuned.model.config.dim, msgspec.json.decode((folder / "metrics.json").read_bytes())
    comments = Student.load(folder / COMMENT_STUDENT, dim) if (folder / COMMENT_STUDENT).exists() else None
    return Distilled(Student.load(folder / STUDENT, dim), metrics, comments)


def _bundle(
    work: Work,
    plan: Plan,
    finetuned: Finetuned,
    corpus: Corpus,
    split: Split,
    texts: TextVectors,
    student: Distilled | None,
) -> Bundle:
    def make(folder: Path) -> None:
        parts = finetuned, corpus, split, texts, folder / "bundle"
        export(*parts, student=student, version=plan.version, created_ms=plan.created_ms)

    return Bundle.open(work.stage("bundle", make) / "bundle")


def _measure(
    config: RefreshConfig,
    events: Log,
    corpus: Corpus,
    split: Split,
    bundle: Bundle,
    serving: Bundle | None,
    threads: int,
) -> list[Result]:
    """Results of the candidate and of the serving model. Raises BundleError if the candidate can't serve."""
    Scorer(bundle).check_sample()
    models = [(CANDIDATE, bundle)] + ([(SERVING, serving)] if serving is not None else [])
    scorers = [
        scorer
        for name, model in models
        for scorer in served_scorers(model, events, corpus, split, name=name, threads=threads)
    ]
    return evaluate(events, corpus, split, scorers, limit=config.gate.targets)


def _publish(registry: Registry, work: Work, bundle: Bundle, decision: Decision) -> None:
    """The bundle with its metrics, and the checkpoint that the next refresh starts from; again without harm."""
    metrics = {judged.task: {judged.protocol: judged.candidate} for judged in decision.tasks}

    def measured(folder: Path) -> None:
        with_metrics(bundle, folder / "bundle", {"gate": {decision.metric: metrics}})

    final = Bundle.open(work.stage("measured", measured) / "bundle")
    registry.keep(f"checkpoints/{final.version}.pt", (work.current / "model" / "checkpoint.pt").read_bytes())
    if final.version not in registry.versions():
        registry.publish(final.path)
