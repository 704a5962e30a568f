"""What the study keeps for the next time: converted logs and trained bundles, under names made of what decides them."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_runtime.bundle import Bundle
from offline_train.alignment_config import AlignmentConfig
from offline_train.corpus import Corpus, Split
from offline_train.deployed import BundleScorer
from offline_train.distill import DistillConfig
from offline_train.export import export, train_student, with_metrics
from offline_train.finetuning import finetune_best
from offline_train.finetuning_config import FinetuneConfig, Progress
from offline_train.live_fitting import live_section
from offline_train.sources.writer import LogWriter
from offline_train.study import simulated
from offline_train.study.texts import ALIGN, Variant
from offline_train.text import text_vectors

#: the task of the deployed model
JOINT = "joint"
_CODE = Path(__file__).parents[1]
#: modules that do not decide the content of a bundle trained on given texts, and how names of others like that begin;
#: every other one does, also those yet to be written. (What stage 1 made is named by its own configuration.)
_NOT_TRAINING = (
    "allocator",
    "archived",
    "baselines",
    "cold",
    "comparison",
    "config_keys",
    "curves",
    "deployed",
    "embedding",
    "evaluation",
    "figures",
    "fitting",
    "full",
    "gate",
    "llm",
    "llm_attention",
    "processes",
    "prompts",
    "protocols",
    "results",
    "served",
    "stage1_curves",
)
_NOT_TRAINING_EITHER = ("alignment", "refresh", "report")


@dataclass(frozen=True)
class Source:
    """A data set: its folder below the shared data (None: made up), what makes a log of it, what to know of it."""

    data: str
    slug: str
    folder: str | None
    convert: Callable[[Path, Path], LogWriter]
    caveat: str
    align: AlignmentConfig = ALIGN  #: stage 1, in the comparison of texts


def converted(source: Source, shared: Path, work: Path) -> Path:
    """The folder of the source's log, converted unless the same files were converted by the same code before."""
    folder = shared / (source.folder or "")
    files = sorted(path for path in folder.glob("*") if path.is_file()) if source.folder else []
    key = _digest(files, (_SOURCES_DIGEST + ("" if source.folder else repr(simulated.SIZE))).encode())
    target = work / f"{source.slug}-{key}"
    if not target.is_dir():
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        source.convert(folder, part)
        part.replace(target)
    return target


def trained_bundle(
    folder: Path,
    corpus: Corpus,
    split: Split,
    config: FinetuneConfig,
    work: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    variant: Variant | None = None,
) -> Bundle:
    """The bundle of one training, from the work folder if the same code trained it on the same log before."""
    what = repr(config) + (variant.key if variant else "")
    key = _digest(sorted(folder.glob("*.jsonl*")), (_CODE_DIGEST + what).encode())
    target = work / f"{folder.name.rsplit('-', 1)[0]}-{config.task}-{config.seed}-{key}"
    if target.is_dir():
        return Bundle.open(target)
    work.mkdir(parents=True, exist_ok=True)
    texts = variant.texts() if variant else text_vectors(corpus.log, cutoff_ms=split.valid_ms)
    finetuned = finetune_best(corpus, split, texts, config, variant.sr(texts) if variant else None, report)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        student = None
        if variant and variant.student:
            distilling = DistillConfig(seed=config.seed, threads=config.threads)
            student = train_student(finetuned, corpus, split, distilling)
        bundle = export(finetuned, corpus, split, texts, Path(scratch) / "sr", student=student)
        kinds = ("video", "comment") if config.task == JOINT else (config.task,)
        srs = [BundleScorer(bundle, corpus.log, corpus, kind, threads=config.threads) for kind in kinds]
        section = None if variant else live_section(srs, corpus.log, corpus, split)[0]
        return with_metrics(bundle, target, {}, section)


def _digest(files: Sequence[Path], extra: bytes = b"") -> str:
    """12 hex digits that stand for the content of the files, in their order."""
    whole = hashlib.sha256(extra)
    for path in files:
        whole.update(path.name.encode() + b"\0")
        with path.open("rb") as data:
            whole.update(hashlib.file_digest(data, "sha256").digest())
    return whole.hexdigest()[:12]


# Taken when the code is loaded, so that a file changed during a long run does not name what the old code made.
_CODE_DIGEST = _digest(
    [
        path
        for path in sorted(_CODE.glob("*.py"))
        if path.stem not in _NOT_TRAINING and not path.stem.startswith(_NOT_TRAINING_EITHER)
    ]
)
_SOURCES_DIGEST = _digest(sorted((_CODE / "sources").glob("*.py")))
