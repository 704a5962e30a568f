"""Both stages from one configuration (`lsvcr train full`): align, embed, fine-tune, export, measure, publish.

config = read_config("rotten-tomatoes.yaml")
full = train_full(config)

Each part leaves its result under a name made of what it depends on. So a run that was killed, or one with another
stage 2, takes up what is there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from offline_train import llm_texts
from offline_train.alignment import Aligned, align
from offline_train.alignment_config import VERSION, AlignmentConfig
from offline_train.alignment_maps import TextMaps
from offline_train.config_keys import check_keys
from offline_train.corpus import Corpus, Split, leave_one_out, temporal_split
from offline_train.embedding import CorpusTexts, PooledStore
from offline_train.finetuning_config import FinetuneConfig, Progress
from offline_train.fitting import Fitted, SplitName, fit
from offline_train.llm import DEFAULT_LLM, LLM
from offline_train.processes import join, place, wait
from offline_train.prompts import LANGUAGES
from offline_train.stage1_curves import draw_stage1
from offline_train.text import TEXT_DIM


@dataclass(frozen=True)
class FullConfig:
    """What a YAML file for `lsvcr train full` may say. Paths are relative to where the command runs."""

    log: str
    registry: str = "./registry"
    cache: str = "./.lsvcr-cache"  #: the LLM, vectors, and the state of stage 1
    columns: str | None = None  #: keep the events' columns there, as files, for a log that is larger than memory
    llm: str = DEFAULT_LLM
    stage1: bool = True  #: False: the vectors of the LLM as it comes
    split: SplitName = "temporal"
    channel: str | None = "stable"
    test: bool = True
    batch_tokens: int = 4096  #: read at once when texts are embedded
    align: AlignmentConfig = field(default_factory=AlignmentConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)


@dataclass(frozen=True)
class Made:
    """What a language model made of a log: the folder of its texts' vectors, and how it came about."""

    folder: Path
    llm: str  #: which model, by the hash of its weights
    aligned: Aligned | None
    stage1: Path | None
    curves: Path | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class Full:
    """What a run left behind. `seconds` is of this run, per part; what was taken up costs none."""

    fitted: Fitted
    texts: Path
    report: Path
    stage1: Path | None
    curves: Path | None
    seconds: dict[str, float] = field(default_factory=dict)


def read_config(path: str | Path, overrides: Mapping[str, str] | None = None) -> FullConfig:
    """Read a YAML file. `overrides` as `{"align.batch": "32"}`, with values in YAML.

    Raises:
        ValueError: an unknown key or a value of the wrong type, named.
    """
    try:
        content = msgspec.yaml.decode(Path(path).read_bytes())
        if not isinstance(content, dict):
            raise ValueError("expected keys and values")
        for name, value in (overrides or {}).items():
            *above, last = name.split(".")
            within = content
            for key in above:
                within = within.setdefault(key, {})
            within[last] = msgspec.yaml.decode(value.encode())
        check_keys(content, FullConfig, "")
        return msgspec.convert(content, FullConfig)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise ValueError(f"{path}: {error}") from None


def train_full(
    config: FullConfig,
    *,
    stage: Callable[[str], None] = lambda what: None,
    advance: Callable[[int, int, str], None] = lambda done, total, what: None,
    progress: Callable[[Progress], None] = lambda point: None,
) -> Full | None:
    """Run what is still to be done. Under torchrun, stage 1 and embedding are shared; None but in the first process.

    Args:
        stage: told what is being done.
        advance: told (done, of how many, how it goes) within stage 1 and embedding.
        progress: told after every batch of stage 2.

    Raises:
        LogError, LLMError, ValueError: what is wrong with log, LLM or configuration.
    """
    rank, _ = join()
    stage(f"reading {config.log}")
    # Each process has files of its own: they are written while they are read.
    corpus = Corpus.read(config.log, config.columns and Path(config.columns) / f"process-{rank}")
    split = temporal_split(corpus) if config.split == "temporal" else leave_one_out(corpus)
    torch.set_num_threads(config.align.threads)
    made = llm_vectors(config, corpus, split, stage=stage, advance=advance)
    if rank:
        return None
    where, aligned, seconds = made.folder, made.aligned, made.seconds

    began = time.perf_counter()
    fitted = fit(
        config.log,
        config.registry,
        config=config.finetune,
        text=f"llm:{where}",
        split_name=config.split,
        channel=config.channel,
        test=config.test,
        columns=config.columns,
        stage=stage,
        progress=progress,
    )
    seconds["stage 2"] = time.perf_counter() - began
    report = fitted.report.with_name("full.json")
    written = {
        "config": asdict(config),
        "llm": made.llm,
        "version": fitted.version,
        "seconds": seconds,
        "texts": str(where),
        "stage1": None
        if aligned is None
        else {"head_curve": aligned.head_curve, "curve": [asdict(point) for point in aligned.curve]},
    }
    report.write_bytes(msgspec.json.format(msgspec.json.encode(written)))
    return Full(fitted, where, report, made.stage1, made.curves, seconds)


def llm_vectors(
    config: FullConfig,
    corpus: Corpus,
    split: Split,
    *,
    stage: Callable[[str], None] = lambda what: None,
    advance: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Made:
    """Stage 1 unless the configuration leaves it out, and every text embedded: a folder for `text_vectors`.

    Raises:
        LLMError, ValueError: what is wrong with LLM or configuration.
    """
    rank, _ = place()
    seconds: dict[str, float] = {}
    log, cache = corpus.log, Path(config.cache)
    texts = CorpusTexts.of(log, split.valid_ms)

    def embedding(done: int, total: int, rate: float) -> None:
        advance(done, total, f"{rate:,.0f} tokens/s")

    stage(f"loading the language model {config.llm}")
    if rank:
        wait()  # the first process may have to dequantise it
    llm = load_reader(config.llm, cache, config.align)
    if not rank:
        wait()
    store = PooledStore(llm, cache, config.align.text_tokens)
    base = store.fingerprint
    aligned: Aligned | None = None
    as_came = texts.of_comments() & (config.stage1 and config.align.comments_as_came)
    pooled = np.empty((len(texts.distinct), llm.dim), np.float32)
    folder = curves = None
    if as_came.any():
        began = time.perf_counter()
        stage(f"embedding {as_came.sum():,} comments by the language model as it came")
        pooled[as_came] = store.vectors(texts.some(as_came), embedding, config.batch_tokens)
        seconds["embedding as it came"] = time.perf_counter() - began
    began = time.perf_counter()
    if config.stage1:
        folder = cache / "stage1" / _name(asdict(config.align), base, log.digest.tobytes(), split.name)
        stage(f"stage 1 in {folder}")

        def step(done: int, total: int, point: Any) -> None:
            advance(done, total, point if isinstance(point, str) else describe(point))

        aligned = align(corpus, split, llm, store, config.align, folder, embedding=embedding, progress=step)
        llm.merge()
        curves = draw_stage1(aligned, folder / "curves.png") if not rank else None
        store = PooledStore(llm, cache, config.align.text_tokens)
    seconds["stage 1"] = time.perf_counter() - began

    began = time.perf_counter()
    stage(f"embedding {(~as_came).sum():,} texts")
    pooled[~as_came] = store.vectors(texts.some(~as_came), embedding, config.batch_tokens)
    seconds["embedding"] = time.perf_counter() - began
    read = store.fingerprint, config.align.text_tokens, config.align.equalised, config.align.comments_as_came
    where = cache / "texts" / _name(read, log.digest.tobytes(), config.stage1)
    if rank:
        return Made(where, base, aligned, folder, curves, seconds)
    early = torch.from_numpy(pooled[texts.early])
    torch.manual_seed(config.align.seed)  # a text MLP that begins has some random weights
    if aligned is None:
        maps, start = TextMaps(llm.dim, TEXT_DIM), None
        maps.fit(early, config.align.equalised)
    else:
        if config.align.comment_map_rate == 0:
            aligned.heads.comments_by_components(early, config.align.equalised)
        aligned.heads.straighten(early)
        maps, start = aligned.heads.maps.cpu(), {k: v.cpu() for k, v in aligned.heads.start().items()}
    llm_texts.write(where, *maps.parts(pooled, texts), start)
    return Made(where, base, aligned, folder, curves, seconds)


def load_reader(name: str, cache: str | Path, align: AlignmentConfig) -> LLM:
    """The LLM as stage 1 and embedding read texts with it: after the words of its language, in bf16 where that works.

    Raises:
        LLMError: there is no such language model, or it can't be compiled here and shall be.
    """
    llm = LLM.load(name, cache, LANGUAGES[align.draw.language].text)
    llm.compute_in_bf16_if_possible()
    if align.compile:
        llm.compile_layers()
    return llm


def describe(point: Any) -> str:
    """A step of stage 1 in a few words; losses as they lie above (+) or below (-) chance."""
    if isinstance(point, float):
        return f"heads alone: L_rec {point:+.3f} of chance"
    return (
        f"L_lm {point.lm:.2f}, L_rec {point.rec - point.rec_chance:+.3f} and z {point.z - point.z_chance:+.3f} "
        f"of chance, behaviour {point.behaviour:.3f}, {point.tokens / max(1e-9, point.seconds):,.0f} tokens/s"
    )


def _name(*parts: Any) -> str:
    return hashlib.sha256(msgspec.msgpack.encode((VERSION, *parts))).hexdigest()[:16]


def mean_gain(aligned: Aligned, last: int = 10) -> dict[str, float]:
    """How far below chance the last steps are, in nats (negative is better than chance)."""
    points = aligned.curve[-last:]
    return {
        "rec": float(np.mean([p.rec - p.rec_chance for p in points])),
        "z": float(np.mean([p.z - p.z_chance for p in points])),
    }
