"""The last stage of training in a refresh: `f`, what live signals add to scores, with the new SR frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from model_runtime.bundle import Bundle
from model_runtime.live_section import LiveSection
from offline_train.corpus import Corpus, Split
from offline_train.deployed import BundleScorer
from offline_train.export import with_metrics
from offline_train.live_fitting import Choice, live_section
from offline_train.log import Log
from offline_train.stages import Work


def with_live(
    work: Work,
    bundle: Bundle,
    log: Log,
    corpus: Corpus,
    split: Split,
    threads: int,
    notes: list[str],
    report: Callable[[str], None],
) -> Bundle:
    """The bundle with live signals for the tasks that they improve; read back if an earlier process trained them.

    What they reached, on the newest part of the validation samples, is added to `notes`. A task for which nothing that
    was tried is better than the SR alone there, or which has too few samples, is served by the SR alone.
    """

    def train(folder: Path) -> None:
        srs = [BundleScorer(bundle, log, corpus, task, threads=threads) for task in ("video", "comment")]
        section, choices = live_section(srs, log, corpus, split, report=report)
        about = {choice.task: {"best": _reached(choice), "alone": _alone(choice)} for choice in choices}
        if section is not None:
            better = {task: live for task, live in section.tasks.items() if about[task]["best"] > about[task]["alone"]}
            section = LiveSection(better, section.items) if better else None
        if section is not None:
            with_metrics(bundle, folder / "bundle", {}, section)
        (folder / "reached.json").write_bytes(msgspec.json.encode(about))

    folder = work.stage("live", train)
    reached: dict[str, Any] = msgspec.json.decode((folder / "reached.json").read_bytes())
    for task, about in reached.items():
        used = "added" if about["best"] > about["alone"] else "left out"
        notes.append(
            f"live signals for {task}s are {used}: NDCG@10 {about['best']:.4f} with them on the samples that chose "
            f"their form, {about['alone']:.4f} without"
        )
    return Bundle.open(folder / "bundle") if (folder / "bundle").is_dir() else bundle


def _reached(choice: Choice) -> float:
    return max(float(tried["ndcg@10"]) for tried in choice.chosen_by)


def _alone(choice: Choice) -> float:
    """The SR's, with the candidates of the form that was chosen."""
    return float(max(choice.chosen_by, key=lambda tried: tried["ndcg@10"])["sr"])
