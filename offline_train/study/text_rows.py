"""Trains and ranks the rows of the comparison of texts, which `offline_train.study.texts` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from offline_train.baselines import Scorer, VectorProfile
from offline_train.cold import AllAlike, UnknownFirst, cold_ranking
from offline_train.corpus import Corpus, Split
from offline_train.deployed import BundleScorer
from offline_train.evaluation import Result, evaluate
from offline_train.finetuning_config import FinetuneConfig, Progress
from offline_train.llm import can_compile
from offline_train.report import Study
from offline_train.study.kept import JOINT, Source, trained_bundle
from offline_train.study.texts import FULL, RAW, SVD, said, variants

PROTOCOLS = ("full", "as-of")


def add_texts(
    study: Study,
    source: Source,
    folder: Path,
    corpus: Corpus,
    split: Split,
    config: FinetuneConfig,
    seeds: range,
    ablations: bool,
    work: Path,
    report: Callable[[str], None],
) -> None:
    """Put the comparison into a study: the SR alone on other texts and with parts of stage 1 left out; and what came
    after training, by the student.

    Args:
        folder: of the converted log.
        seeds: one run of stage 1 each.
        work: where bundles and what stage 1 leaves are kept.
    """
    scorers: list[Scorer] = []
    late: list[Result] = []
    align = replace(source.align, threads=config.threads, compile=can_compile())
    for seed in seeds:
        one = replace(config, task=JOINT, seed=seed)
        epoch = partial(_epoch, report, f"{source.data}: {SVD}, seed {seed}")
        plain = trained_bundle(folder, corpus, split, one, work / "bundles", report=epoch)
        scorers += [
            BundleScorer(plain, corpus.log, corpus, kind, name=SVD, threads=config.threads)
            for kind in ("video", "comment")
        ]
        for variant in variants(corpus, split, work / "stage1", align, seed, report, ablations):
            report(f"{source.data}: {variant.name}, seed {seed}")
            one = replace(config, task=variant.task, seed=seed)
            epoch = partial(_epoch, report, f"{source.data}: {variant.name}, seed {seed}")
            bundle = trained_bundle(folder, corpus, split, one, work / "bundles", report=epoch, variant=variant)
            srs = [
                BundleScorer(bundle, corpus.log, corpus, kind, name=variant.name, threads=config.threads)
                for kind in variant.kinds
            ]
            scorers += srs
            if seed == seeds[0] and variant.unknown_first:
                scorers.append(UnknownFirst(srs[0]))
                if variant.name == RAW:
                    scorers.append(UnknownFirst(srs[0], AllAlike(corpus.log)))
            if variant.name == FULL or (variant.name == RAW and seed == seeds[0]):
                scorers.append(VectorProfile(corpus, variant.texts().comment, f"text profile ({variant.name})"))
            if bundle.student is not None:
                late += cold_ranking(corpus.log, corpus, split, bundle, threads=config.threads)
    study.texts = evaluate(corpus.log, corpus, split, scorers, protocols=PROTOCOLS)
    study.cold, study.texts_how = late, said(source.align)


def _epoch(report: Callable[[str], None], what: str, progress: Progress) -> None:
    report(f"{what}, epoch {progress.epoch}")
