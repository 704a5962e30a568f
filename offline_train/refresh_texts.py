"""The text vectors of a refresh: of a language model that is aligned anew now and then, or fitted to the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from offline_train.corpus import Corpus, Split
from offline_train.log import Log
from offline_train.reference import Reference
from offline_train.refresh_config import RefreshConfig
from offline_train.refresh_stage1 import texts_by_llm
from offline_train.stages import Work
from offline_train.text import TextVectors, text_vectors
from offline_train.warm_start import ColdError, aligned, config_for

_START = "start.pt"
_CROSSED = ("video_as_comment", "comment_as_video")


def texts_of(
    config: RefreshConfig,
    work: Work,
    events: Log,
    corpus: Corpus,
    split: Split,
    previous: Reference | None,
    notes: list[str],
    stage: Callable[[str], None] = lambda what: None,
) -> tuple[TextVectors, Reference | None]:
    """The text vectors, and the model to start from: None, with a note why, where it does not fit them."""

    def embed(folder: Path) -> None:
        if config.stage1 is not None:
            texts = texts_by_llm(config.stage1, config.aligning(), work, corpus, split, stage)
        else:
            texts = text_vectors(events, config.text, split.valid_ms, config.finetuning().seed)
        why = ""
        if previous is not None:
            try:
                config_for(previous, events, texts, corpus.config.window)
                texts = aligned(texts, events, previous)
            except ColdError as error:
                why = f"training started from scratch: {error}"
        if texts.start is not None and (previous is None or why):
            torch.save(dict(texts.start), folder / _START)
        # Uncompressed columns, and no pickle.
        crossed = dict(zip(_CROSSED, texts.crossed or (), strict=False))
        np.savez(folder / "texts.npz", video=texts.video, comment=texts.comment, **crossed)  # type: ignore[arg-type]
        (folder / "about.json").write_bytes(msgspec.json.encode({"method": texts.method, "cold": why}))

    folder = work.stage("texts", embed)
    with np.load(folder / "texts.npz", allow_pickle=False) as arrays:
        video, comment = arrays["video"], arrays["comment"]
        crossed = (arrays[_CROSSED[0]], arrays[_CROSSED[1]]) if _CROSSED[0] in arrays else None
    about = msgspec.json.decode((folder / "about.json").read_bytes())
    if about["cold"]:
        notes.append(about["cold"])
        previous = None
    start = None
    if (folder / _START).exists():
        start = torch.load(folder / _START, map_location="cpu", weights_only=True)
    return TextVectors(video, comment, about["method"], start=start, crossed=crossed), previous
