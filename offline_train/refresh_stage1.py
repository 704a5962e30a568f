"""Stage 1 within a refresh: a language model is aligned now and then, and reads what is new in between.

Everything lies below the refresh's work folder: `llm/` has the state of an alignment that is under way, so that it goes
on after a kill, and the vectors of every text read yet; `stage1/TIME/` what an alignment left.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from offline_train.alignment_checkpoint import CHECKPOINT
from offline_train.alignment_config import VERSION, AlignmentConfig
from offline_train.alignment_maps import TextMaps
from offline_train.corpus import Corpus, Split
from offline_train.embedding import POOLED, CorpusTexts, PooledStore
from offline_train.full import FullConfig, llm_vectors, load_reader
from offline_train.refresh_config import Stage1Config
from offline_train.stages import Work
from offline_train.text import TEXT_DIM, TextVectors

_DAY_MS = 24 * 3600 * 1000
_LORA, _START, _ABOUT, _STORES = "lora.pt", "start.pt", "about.json", "stores.json"
_MAPS = {"title": "map.pt", "comment": "comment_map.pt"}

#: `stage(what)`
Stage = Callable[[str], None]


def texts_by_llm(
    config: Stage1Config, align: AlignmentConfig, work: Work, corpus: Corpus, split: Split, stage: Stage
) -> TextVectors:
    """The vectors of every text of the log, by the newest alignment; a new one, if that is older than the cadence says.

    Raises:
        LLMError: the language model can't be loaded.
        ValueError: the log holds too little to align on.
    """
    folder = _newest(config, align, work)
    if folder is None:
        made = work.stage("stage1", lambda folder: _align(config, align, work, corpus, split, folder, stage))
        folder = work.folder / "stage1" / str(int(time.time() * 1000))
        folder.parent.mkdir(exist_ok=True)
        os.rename(made, folder)
    texts = _embed(config, align, work, corpus, split, folder, stage)
    _sweep(work, folder)
    return texts


def _sweep(work: Work, kept: Path) -> None:
    """Remove older alignments, what they read, and the state that the newest could have gone on from."""
    shutil.rmtree(_cache(work) / "stage1", ignore_errors=True)
    for other in (work.folder / "stage1").iterdir():
        if other != kept:
            shutil.rmtree(other, ignore_errors=True)
    needed = set(msgspec.json.decode((kept / _STORES).read_bytes()))
    for store in (_cache(work) / POOLED).iterdir():
        if store.name not in needed:
            shutil.rmtree(store, ignore_errors=True)


def _newest(config: Stage1Config, align: AlignmentConfig, work: Work) -> Path | None:
    """The newest alignment by these settings, unless it is too old."""
    oldest = time.time() * 1000 - config.every_days * _DAY_MS
    about = _about(config, align)
    kept = sorted((work.folder / "stage1").glob("[0-9]*"), reverse=True)
    return next((f for f in kept if int(f.name) > oldest and (f / _ABOUT).read_bytes() == about), None)


def _align(
    config: Stage1Config, align: AlignmentConfig, work: Work, corpus: Corpus, split: Split, folder: Path, stage: Stage
) -> None:
    """Leave in `folder` all that embedding needs."""
    told = _Rarely(stage)
    full = FullConfig(log="", llm=config.llm, cache=str(_cache(work)), align=align)
    made = llm_vectors(full, corpus, split, stage=stage, advance=told)
    assert made.stage1 is not None
    saved = torch.load(made.stage1 / CHECKPOINT, map_location="cpu", weights_only=True)
    torch.save(saved["lora"], folder / _LORA)
    for name in (*_MAPS.values(), _START):
        if (made.folder / name).exists():
            shutil.copy(made.folder / name, folder / name)
    if made.curves is not None:
        shutil.copy(made.curves, folder / "curves.png")
    (folder / _ABOUT).write_bytes(_about(config, align))


def _embed(
    config: Stage1Config, align: AlignmentConfig, work: Work, corpus: Corpus, split: Split, folder: Path, stage: Stage
) -> TextVectors:
    texts = CorpusTexts.of(corpus.log, split.valid_ms)
    llm = load_reader(config.llm, _cache(work), align)
    told = _Rarely(stage)

    def advance(done: int, total: int, rate: float) -> None:
        told(done, total, f"{rate:,.0f} tokens/s")

    before = PooledStore(llm, _cache(work), align.text_tokens)  # the next alignment begins with these
    pooled = np.empty((len(texts.distinct), llm.dim), np.float32)
    as_came = texts.of_comments() & align.comments_as_came
    pooled[as_came] = before.vectors(texts.some(as_came), advance)
    llm.add_lora(align.lora)
    llm.load_lora(torch.load(folder / _LORA, map_location="cpu", weights_only=True))
    llm.merge()
    store = PooledStore(llm, _cache(work), align.text_tokens)
    pooled[~as_came] = store.vectors(texts.some(~as_came), advance)
    (folder / _STORES).write_bytes(msgspec.json.encode([before.folder.name, store.folder.name]))
    maps = TextMaps(llm.dim, TEXT_DIM, (folder / _MAPS["comment"]).exists())
    for name, mapping in maps.named_children():
        mapping.load_state_dict(torch.load(folder / _MAPS[name], map_location="cpu", weights_only=True))
    start = torch.load(folder / _START, map_location="cpu", weights_only=True)
    return replace(maps.of_log(pooled, texts, f"{config.llm}, aligned {folder.name}"), start=start)


def _cache(work: Work) -> Path:
    return work.folder / "llm"


def _about(config: Stage1Config, align: AlignmentConfig) -> bytes:
    return msgspec.json.encode({"version": VERSION, "llm": config.llm, "align": asdict(align)}, order="sorted")


class _Rarely:
    """Tells of progress within a part, every few seconds and not every batch."""

    SECONDS = 10.0

    def __init__(self, stage: Stage) -> None:
        self._stage, self._last = stage, time.monotonic()

    def __call__(self, done: int, total: int, how: str) -> None:
        if time.monotonic() - self._last > self.SECONDS or done == total:
            self._last = time.monotonic()
            self._stage(f"  {done:,} of {total:,}, {how}")
