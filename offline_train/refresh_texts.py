"""The text vectors of a refresh: of a language model that is aligned anew now and then, or fitted to the log."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from offline_train.corpus import Corpus, Split
from offline_train.log import Log
from offline_train.reference import Reference
from offline_train.refresh_config import RefreshConfig
from offline_train.stages import Work
from offline_train.text import TextVectors, text_vectors
from offline_train.warm_start import ColdError, aligned, config_for

_DAY_MS = 24 * 3600 * 1000


class Stage1(Protocol):
    """What aligns the language model and embeds texts with it (paper, section 3.3)."""

    def align(self, corpus: Corpus, split: Split, options: dict[str, Any], folder: Path) -> None:
        """Align anew, and leave in `folder` all that embedding needs."""

    def embed(self, log: Log, folder: Path) -> TextVectors:
        """The vectors of every text of a log, with what `align` left."""


def texts_of(
    config: RefreshConfig,
    work: Work,
    events: Log,
    corpus: Corpus,
    split: Split,
    stage1: Stage1 | None,
    previous: Reference | None,
    notes: list[str],
) -> tuple[TextVectors, Reference | None]:
    """The text vectors, and the model to start from: None, with a note why, where it does not fit them."""

    def embed(folder: Path) -> None:
        if stage1 is not None and config.stage1 is not None:
            texts = stage1.embed(events, _aligned_model(config, work, corpus, split, stage1))
        else:
            texts = text_vectors(events, config.text, split.valid_ms, config.finetuning().seed)
        why = ""
        if previous is not None:
            try:
                config_for(previous, events, texts, corpus.config.window)
                texts = aligned(texts, events, previous)
            except ColdError as error:
                why = f"training started from scratch: {error}"
        # Uncompressed columns, and no pickle.
        np.savez(folder / "texts.npz", video=texts.video, comment=texts.comment)
        (folder / "about.json").write_bytes(msgspec.json.encode({"method": texts.method, "cold": why}))

    folder = work.stage("texts", embed)
    with np.load(folder / "texts.npz", allow_pickle=False) as arrays:
        video, comment = arrays["video"], arrays["comment"]
    about = msgspec.json.decode((folder / "about.json").read_bytes())
    if about["cold"]:
        notes.append(about["cold"])
        previous = None
    return TextVectors(video, comment, about["method"]), previous


def _aligned_model(config: RefreshConfig, work: Work, corpus: Corpus, split: Split, stage1: Stage1) -> Path:
    """The folder of the newest alignment; a new one, if that is older than the cadence says."""
    assert config.stage1 is not None
    kept = work.folder / "stage1"
    newest = max(kept.glob("[0-9]*"), default=None) if kept.is_dir() else None
    age_ms = time.time() * 1000 - int(newest.name) if newest else float("inf")
    if newest is not None and age_ms < config.stage1.every_days * _DAY_MS:
        return newest
    made = work.stage("stage1", lambda folder: stage1.align(corpus, split, config.stage1.options, folder))  # type: ignore[union-attr]
    kept.mkdir(exist_ok=True)
    target = kept / str(int(time.time() * 1000))
    os.rename(made, target)
    return target
