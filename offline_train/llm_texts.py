"""The text vectors of one LLM and one log in a folder: what is left of stage 1 once the LLM is thrown away.

`vectors.npy` [n, d_t] with `keys.npy` (a hash of each text), and `map.pt`, the text MLP with the kept standardisation;
where comments have a text MLP of their own, that is the titles', and the comments' is `comment_map.pt`, its vectors of
the same texts `comment_vectors.npy`; `start.pt`, the SR weights that stage 2 starts from, if there was a stage 1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offline_train.log import Log

_KEY = 16
_COMMENTS = "comment_"


@dataclass(frozen=True)
class Part:
    """Texts, their vectors, float32 [n, d_t], and the weights of the text MLP that made them."""

    texts: Sequence[str]
    vectors: np.ndarray
    mapping: Mapping[str, Tensor]


def write(
    folder: str | Path, texts: Part, comments: Part | None = None, start: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a folder, whole or not at all. `comments`: the same texts by the comments' own MLP."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".texts-", dir=folder.parent))
    try:
        np.save(scratch / "keys.npy", _keys(texts.texts))
        for prefix, part in (("", texts), (_COMMENTS, comments)):
            if part is not None:
                np.save(scratch / f"{prefix}vectors.npy", part.vectors.astype(np.float32))
                torch.save(dict(part.mapping), scratch / f"{prefix}map.pt")
        if start is not None:
            torch.save(dict(start), scratch / "start.pt")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def read(folder: str | Path, log: Log) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n_v, d_t] and [n_c, d_t] of a log's titles and comments; zero rows for empty texts.

    Raises:
        ValueError: no such folder, or it lacks texts of the log.
    """
    folder = Path(folder)
    if not (folder / "vectors.npy").is_file():
        raise ValueError(f"{folder} holds no text vectors; `lsvcr train full` writes such a folder")
    return _rows(folder, "", log.video_titles), _rows(folder, _own(folder), log.comment_texts)


def read_crossed(folder: str | Path, log: Log) -> tuple[np.ndarray, np.ndarray] | None:
    """Titles by the comments' text MLP and comments by the titles', as `read`; None where there is one for both."""
    folder = Path(folder)
    own = _own(folder)
    return (_rows(folder, own, log.video_titles), _rows(folder, "", log.comment_texts)) if own else None


def _own(folder: Path) -> str:
    return _COMMENTS if (folder / f"{_COMMENTS}vectors.npy").is_file() else ""


def _rows(folder: Path, prefix: str, texts: Sequence[str]) -> np.ndarray:
    vectors = np.load(folder / f"{prefix}vectors.npy", mmap_mode="r")
    keys = np.load(folder / "keys.npy")
    order = np.argsort(keys)
    wanted = _keys(texts)
    place = order[np.clip(np.searchsorted(keys, wanted, sorter=order), 0, max(0, len(keys) - 1))]
    found = keys[place] == wanted if len(keys) else np.zeros(len(texts), bool)
    empty = np.array([not text.strip() for text in texts], bool)
    if lacking := int((~found & ~empty).sum()):
        raise ValueError(f"{folder} lacks vectors of {lacking:,} texts of this log; run `lsvcr train full` on it again")
    rows = np.zeros((len(texts), vectors.shape[1]), np.float32)
    rows[~empty] = vectors[place[~empty]]
    return rows


def placed(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows [n, d_t] of distinct texts as rows of items: `at` is each one's text, -1 for an empty one (a zero row)."""
    return np.where((at >= 0)[:, None], rows[at], np.float32(0))


def read_start(folder: str | Path) -> dict[str, Tensor] | None:
    """The SR weights to start stage 2 from; None if there was no stage 1."""
    path = Path(folder) / "start.pt"
    if not path.exists():
        return None
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _keys(texts: Sequence[str]) -> np.ndarray:
    """Fixed-width hex, so that numpy can sort it."""
    return np.array([hashlib.sha256(text.encode()).hexdigest()[: 2 * _KEY] for text in texts], f"S{2 * _KEY}")
