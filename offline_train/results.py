"""The study behind `docs/results.md`: convert the data, train with several seeds, evaluate everything, write it down.

What is expensive is kept under a name made of its content: a converted log by its source files, a bundle by its log,
its configuration and the code that trained it. Running again with nothing changed therefore trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from offline_train.baselines import Random, Scorer, VectorProfile, baselines
from offline_train.corpus import Corpus, Split, temporal_split
from offline_train.deployed import LIVE_NAME, NAME, BundleScorer
from offline_train.evaluation import evaluate, training_events
from offline_train.finetuning_config import FinetuneConfig, Progress
from offline_train.live_scorer import live_scorers
from offline_train.log import INTERACTION, Log
from offline_train.report import Study, write_report, write_texts
from offline_train.report_parts import written
from offline_train.sources import hetrec, rotten_tomatoes
from offline_train.sources.oracle import Oracle
from offline_train.study import beauty, simulated
from offline_train.study.kept import JOINT, Source, converted, trained_bundle
from offline_train.study.live_ablation import live_ablations
from offline_train.study.recbole import recbole_scorer
from offline_train.study.text_rows import PROTOCOLS, add_texts
from offline_train.study.texts import ALIGN, SVD
from offline_train.text import text_vectors

#: `advance(done, total, what)`
Advance = Callable[[int, int, str], None]

DEFAULT = FinetuneConfig()
SOURCES = (
    Source(
        "Rotten Tomatoes",
        "rotten-tomatoes",
        "rotten-tomatoes",
        rotten_tomatoes.convert,
        "Only the day of a review is known; within a day the order is the file's, which puts a film's reviews "
        "together. What counts recent engagements gains from that. A comment target is the user's own new review.",
        # as infra/training/rotten-tomatoes.yaml: the table is of what `lsvcr train full` makes by it
        replace(
            ALIGN,
            draw=replace(ALIGN.draw, prompt_history=3),
            samples=768,
            z_samples=512,
            text_tokens=48,
            prompt_tokens=16,
        ),
    ),
    Source(
        "HetRec",
        "hetrec",
        "hetrec2011-tags",
        hetrec.convert,
        "A user who is the first to give a film some tag creates the comment by that: as-of cannot rank such a target, "
        "and in the full ranking what counts likes so far can only push it down.",
    ),
    Source(
        "Simulated platform",
        "simulated",
        None,
        simulated.convert,
        "Made up by `lsvcr simulate`'s simulator. The oracle is its truth, the log chance of each candidate to be "
        "engaged with next: nothing can rank better on average.",
    ),
)
#: data sets that are no log of events
BENCHMARKS = (beauty,)


def make_results(
    shared: Path,
    out: Path,
    work: Path,
    *,
    seeds: int = 3,
    only: Sequence[str] = (),
    tasks: Sequence[str] = (JOINT,),
    config: FinetuneConfig = DEFAULT,
    recbole_seeds: int | None = None,
    stage1_seeds: int | None = None,
    ablations: bool = True,
    texts_only: bool = False,
    advance: Advance = lambda done, total, what: None,
) -> Path:
    """Make `out/results.md`, `out/results.json` and the pictures, and return the document.

    What they say of data sets that are not done now stays.

    Args:
        shared: the folder with the public data sets as they were published.
        work: where converted logs and bundles are kept for the next time.
        seeds: trainings per model; the random baseline too is drawn so often.
        only: slugs of the data sets to do; none means all.
        tasks: the models to train; `joint` is the deployed one and bears the plain name.
        config: of every training, but for its task and its seed.
        recbole_seeds: trainings of RecBole's SASRec, which is installed into the work folder the first time; None
            means `seeds`.
        stage1_seeds: runs of stage 1, each a language model's training; None means `seeds`, 0 leaves the comparison of
            texts out.
        ablations: in that, leave out parts of stage 1 and of the SR as well: three more runs of stage 1 per data set.
        texts_only: make the comparison of texts anew, and leave the rest of each data set as it is written.

    Raises:
        ValueError: nothing is written yet of which only the comparison of texts could be made anew.
        SourceError: a data set is not where it should be.
        RecBoleError: RecBole can't be installed, or failed.
        LLMError: there is no language model.
    """
    chosen = [source for source in SOURCES if not only or source.slug in only]
    others = [benchmark for benchmark in BENCHMARKS if not only or benchmark.SLUG in only]
    theirs = seeds if recbole_seeds is None else recbole_seeds
    aligned = seeds if stage1_seeds is None else stage1_seeds
    if texts_only:
        return _texts_anew(chosen, shared, out, work, config, range(aligned), ablations, advance)
    per_log = 3 + seeds * len(tasks) + theirs + bool(aligned)
    steps = _Steps(len(chosen) * per_log + len(others), advance)
    studies = [
        _study(source, shared, work, range(seeds), tasks, config, range(theirs), range(aligned), ablations, steps)
        for source in chosen
    ]
    for benchmark in others:
        steps(benchmark.DATA)
        studies.append(
            benchmark.study(
                shared, work / "others", seeds, threads=config.threads, recbole_seeds=theirs, report=steps.say
            )
        )
    return write_report(studies, out, how=_how(seeds, tasks))


class _Steps:
    """Progress over the steps of the study."""

    def __init__(self, total: int, advance: Advance) -> None:
        self.done, self.total, self.advance, self.what = -1, total, advance, ""

    def __call__(self, what: str) -> None:
        self.done, self.what = self.done + 1, what
        self.advance(self.done, self.total, what)

    def say(self, what: str) -> None:
        """What is being done within a step."""
        self.advance(self.done, self.total, what)

    def other(self, epoch: Mapping[str, Any]) -> None:
        """What RecBole reports: its epochs, and last which one was best."""
        self.say(f"{self.what}, epoch {epoch.get('epoch', epoch.get('best_epoch'))}")

    def epoch(self, progress: Progress) -> None:
        """What a training reports."""
        self.advance(self.done, self.total, f"{self.what}, epoch {progress.epoch}")


def _study(
    source: Source,
    shared: Path,
    work: Path,
    seeds: range,
    tasks: Sequence[str],
    config: FinetuneConfig,
    recbole_seeds: range,
    stage1_seeds: range,
    ablations: bool,
    steps: _Steps,
) -> Study:
    steps(f"{source.data}: converting")
    folder = converted(source, shared, work / "logs")
    # What a state remembers as seen does not change what is ranked here, but the bundle says it to the worker.
    corpus = Corpus.read(folder)
    log = corpus.log
    split = temporal_split(corpus)

    training = training_events(log, corpus, split)
    trained: list[Scorer] = []
    variants: list[Scorer] = []
    for task in tasks:
        for seed in seeds:
            steps(f"{source.data}: training {task}, seed {seed}")
            one = replace(config, task=task, seed=seed)
            bundle = trained_bundle(folder, corpus, split, one, work / "bundles", report=steps.epoch)
            name = NAME if task == JOINT else f"{NAME} ({task}s alone)"
            kinds = ("video", "comment") if task == JOINT else (task,)
            srs = [BundleScorer(bundle, log, corpus, kind, name=name, threads=config.threads) for kind in kinds]
            trained += srs
            if task == JOINT:
                trained += live_scorers(srs, bundle.live, log, corpus, training)
                for sr in srs:
                    if bundle.live and (live := bundle.live.tasks.get(sr.task)):
                        variants += live_ablations(sr, live, log, corpus, split)
    for seed in recbole_seeds:
        steps(f"{source.data}: training RecBole's SASRec, seed {seed}")
        trained.append(
            recbole_scorer(
                corpus,
                split,
                seed,
                work / "others",
                threads=config.threads,
                report=steps.other,
            )
        )
    if (folder / simulated.ORACLE_FILE).exists():
        oracle = Oracle.load(folder / simulated.ORACLE_FILE)
        trained += [simulated.OracleScorer(task, log, oracle) for task in ("video", "comment")]

    steps(f"{source.data}: ranking")
    scorers = [scorer for task in ("video", "comment") for scorer in baselines(task, log, corpus, training, seeds[0])]
    svd = text_vectors(log, cutoff_ms=split.valid_ms)
    scorers.append(VectorProfile(corpus, svd.comment, f"text profile ({SVD})"))
    scorers += [Random(task, log, seed) for task in ("video", "comment") for seed in seeds[1:]]
    results = evaluate(log, corpus, split, [*scorers, *trained], protocols=PROTOCOLS)
    steps(f"{source.data}: ranking without each live signal")
    ablation = [r for r in evaluate(log, corpus, split, variants, protocols=("as-of",)) if r.values]
    span = int(split.test_ms), int(log.ts_ms[-1])
    study = Study(source.data, source.slug, results, _facts(source, log, corpus, split), ablation, span)
    if stage1_seeds:
        steps(f"{source.data}: other texts, and stage 1")
        add_texts(study, source, folder, corpus, split, config, stage1_seeds, ablations, work, steps.say)
    return study


def _texts_anew(
    sources: Sequence[Source],
    shared: Path,
    out: Path,
    work: Path,
    config: FinetuneConfig,
    seeds: range,
    ablations: bool,
    advance: Advance,
) -> Path:
    if not sources:
        raise ValueError("no data set that was asked for has a comparison of texts; leave --texts-only out")
    if not seeds:
        raise ValueError(
            "the comparison of texts alone, of no run of stage 1, is nothing: give --stage1-seeds 1 or more"
        )
    parts = written(out, [source.data for source in sources])  # hours later would be late to miss them
    steps = _Steps(2 * len(sources), advance)
    studies = []
    for source in sources:
        steps(f"{source.data}: converting")
        folder = converted(source, shared, work / "logs")
        corpus = Corpus.read(folder)
        split = temporal_split(corpus)
        steps(f"{source.data}: other texts, and stage 1")
        study = Study(source.data, source.slug, [])
        add_texts(study, source, folder, corpus, split, config, seeds, ablations, work, steps.say)
        studies.append(study)
    return write_texts(studies, parts, out)


def _facts(source: Source, log: Log, corpus: Corpus, split: Split) -> list[str]:
    test = corpus.samples.take(split.test)
    trained_on = corpus.samples.take(split.train)
    comments = test.kind == INTERACTION
    known = np.isin(test.target_video, corpus.samples.target_video[split.train])
    return [
        f"{len(log.user_ids):,} users, {len(log.video_ids):,} videos, {len(log.comment_ids):,} comments, "
        f"{log.events:,} events from {_day(int(log.ts_ms[0]))} to {_day(int(log.ts_ms[-1]))}.",
        f"Training before {_day(split.valid_ms)}, test from {_day(split.test_ms)}: {len(trained_on):,} samples to "
        f"learn from, {int((~comments).sum()):,} video and {int(comments.sum()):,} comment targets to rank.",
        f"{1 - known[~comments].mean():.0%} of the video targets of the test are unknown to training.",
        source.caveat,
    ]


def _how(seeds: int, tasks: Sequence[str]) -> list[str]:
    lines = [
        f"{NAME}: the joint model, fine-tuned from scratch with {seeds} seed{'s' * (seeds > 1)}. Each training is "
        "exported to a bundle and ranked by that bundle's ONNX graph, as in serving. Text vectors are TF-IDF reduced "
        "by SVD, fitted on the training period.",
        f"{LIVE_NAME}: to that score is added a small function of what is alive at the moment, trained on the "
        "validation part with the rest frozen; it ranks the union of the nearest, the trending, the newest and the "
        "related videos.",
        "Everything else that is fitted uses the training period alone.",
        "To make it again: `make results`, or `lsvcr evaluate results --data DIR`.",
    ]
    if set(tasks) - {JOINT}:
        lines.insert(1, f'"{NAME} (videos alone)" and "{NAME} (comments alone)" are fine-tuned on one task each.')
    return lines


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
