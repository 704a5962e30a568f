"""A bundle's part for live signals, `live.npz`: the weights of `f` per task, and what the catalog was like in training.

Left out of a bundle, the score is the SR's alone.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.blend import Blend
from model_runtime.live_features import COMMENT_FEATURES, MAX_HALF_LIVES, VIDEO_FEATURES
from model_runtime.manifest import BundleError

_FEATURES = {"video": VIDEO_FEATURES, "comment": COMMENT_FEATURES}
_COLUMNS = {"since_ms": np.int64, "base": np.int64}


class LiveTask(Struct, frozen=True):
    """How live signals enter the ranking of one task. `time`: whether a feature may read a clock or a count."""

    half_lives_ms: list[float]
    time: bool
    blend: Blend


@dataclass(frozen=True)
class LiveItems:
    """What the features need of the items of one kind, in the order of the bundle's tables.

    since_ms: creation or first appearance, Unix ms. base: engagements in the training period.
    """

    since_ms: NDArray[np.int64]
    base: NDArray[np.int64]


@dataclass(frozen=True)
class LiveSection:
    """Everything about live signals that a bundle holds. `tasks` and `items` have the keys `video` and `comment`."""

    tasks: dict[str, LiveTask] = field(default_factory=dict)
    items: dict[str, LiveItems] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file."""
        arrays = {f"{kind}_{name}": getattr(items, name) for kind, items in self.items.items() for name in _COLUMNS}
        arrays["tasks"] = np.frombuffer(msgspec.json.encode(self.tasks), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @staticmethod
    def load(path: str | Path, counts: dict[str, int]) -> LiveSection:
        """Read and check the file; `counts`: how many items of each kind the bundle has.

        Raises:
            BundleError: it can't be read, has other shapes, or weights that can't be used.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tasks = msgspec.json.decode(arrays["tasks"].tobytes(), type=dict[str, LiveTask])
                items = {
                    kind: LiveItems(**{name: arrays[f"{kind}_{name}"] for name in _COLUMNS}) for kind in sorted(counts)
                }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError) as error:
            raise BundleError(f"{path}: {error}; export the model again") from None
        for kind, task in tasks.items():
            if kind not in _FEATURES:
                raise BundleError(f"{path}: unknown task {kind!r}; update this installation, or train again")
            lives = task.half_lives_ms
            if not 1 <= len(lives) <= MAX_HALF_LIVES or not np.isfinite(lives).all() or min(lives) <= 0:
                raise BundleError(f"{path}: half-lives {lives}; 1 to {MAX_HALF_LIVES} positive ones needed")
            task.blend.check(f"{path}, {kind}s", _FEATURES[kind])
        for kind, count in counts.items():
            for name, dtype in _COLUMNS.items():
                array = getattr(items[kind], name)
                if array.shape != (count,) or array.dtype != dtype:
                    raise BundleError(
                        f"{path}: {kind}_{name} is {array.dtype} {list(array.shape)}, but {np.dtype(dtype)} [{count}] "
                        "is needed; export the model again"
                    )
        return LiveSection(tasks, items)
