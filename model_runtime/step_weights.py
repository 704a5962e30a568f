"""A bundle's part for compiled steps, `steps.npz`: the encoder's weights as `model_runtime.step_kernel` reads them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_runtime.manifest import BundleError


def _with_biases(*names: str) -> tuple[str, ...]:
    return tuple(part for name in names for part in (name, f"{name}_bias"))


_SIDES = "video", "comment"
#: in the order of the numbers in `step_kernel`
_FIXED = (
    *_with_biases("mix"),
    *(f"{side}_{part}" for side in _SIDES for part in ("position", *_with_biases("start_norm"), "newest")),
    *_with_biases("pooling", "pooling_norm", "pooling_score", "video_fusion"),
    "video_prior",
    "video_profile",
    *_with_biases("comment_query", "comment_through"),
    "comment_out",
    *_with_biases("comment_norm"),
    "comment_profile",
    "scale",
)
_LAYER = _with_biases("query", "through", "norm1", "up", "down", "norm2")
_CROSS = (*_LAYER, *_with_biases("out"))


@dataclass(frozen=True)
class StepWeights:
    """The weights by name, matrices as [in, out], and the number of heads."""

    parts: Mapping[str, NDArray[np.float32]]
    heads: int

    @property
    def dim(self) -> int:
        return len(self.parts["mix_bias"])

    @property
    def window(self) -> int:
        return len(self.parts["video_newest"])

    @property
    def feed_forward(self) -> int:
        return len(self.parts["video_cross_up_bias"])

    @property
    def layers(self) -> int:
        return sum(name.startswith("video_") and name.endswith("_up_bias") for name in self.parts) - 1

    def names(self) -> list[str]:
        """The parts in the order of their numbers."""
        names = list(_FIXED)
        for side in _SIDES:
            names += [f"{side}_{layer}_{part}" for layer in range(self.layers) for part in _LAYER]
            names += [f"{side}_cross_{part}" for part in _CROSS]
        return names

    def packed(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """All parts in one piece, and where each begins and the last ends."""
        parts = [np.asarray(self.parts[name]).ravel() for name in self.names()]
        places = np.concatenate(([0], np.cumsum([part.size for part in parts])))
        return np.concatenate(parts), places

    def to_bytes(self) -> bytes:
        """The file's content; equal weights give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, heads=np.array(self.heads, np.int32), **self.parts)
        return buffer.getvalue()

    @classmethod
    def load(cls, file: str | Path, *, dim: int, window: int) -> StepWeights:
        """Read and check the file.

        Raises:
            BundleError: it can't be read, or holds other parts, shapes or types than the step needs, or no numbers.
        """
        try:
            with np.load(file, allow_pickle=False) as saved:
                found = cls({name: saved[name] for name in saved.files if name != "heads"}, int(saved["heads"]))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise BundleError(f"{file}: {error}; export the model again") from None
        if problem := found._problem(dim, window):
            raise BundleError(f"{file}: {problem}; export the model again")
        return found

    def _problem(self, dim: int, window: int) -> str | None:
        missing = set(self.names()) ^ set(self.parts)
        if missing:
            return f"its parts differ from what is needed by {', '.join(sorted(missing))}"
        if self.heads < 1 or dim % self.heads:
            return f"{self.heads} heads don't divide d = {dim}"
        for name, shape in self._shapes(dim, window).items():
            part = self.parts[name]
            if part.shape != shape or part.dtype != np.float32:
                return f"{name} is {part.dtype} {list(part.shape)}, not float32 {list(shape)}"
            if not np.isfinite(part).all():
                return f"a number in {name} is not finite"
        return None

    def _shapes(self, d: int, window: int) -> dict[str, tuple[int, ...]]:
        wide, f = self.heads * d, self.feed_forward
        shapes: dict[str, tuple[int, ...]] = {
            "mix": (2 * d, d),
            "pooling": (2 * d, 2 * d),
            "pooling_norm": (2 * d,),
            "pooling_score": (2 * d, 1),
            "video_fusion": (2 * d, d),
            "video_prior": (d,),
            "comment_query": (d, 2 * wide),
            "comment_through": (2 * wide, d),
            "comment_out": (d,),
            "comment_norm": (d,),
            "scale": (),
        }
        layer = {"norm1": (d,), "norm2": (d,), "up": (d, f), "down": (f, d), "out": (d, d)}
        for side in _SIDES:
            shapes |= {f"{side}_{part}": () for part in ("profile",)}
            shapes |= {f"{side}_position": (window, d), f"{side}_start_norm": (d,), f"{side}_newest": (window,)}
            for number in [*map(str, range(self.layers)), "cross"]:
                query = wide if number != "cross" else 2 * wide + 2 * self.heads + d
                shapes |= {f"{side}_{number}_query": (d, query), f"{side}_{number}_through": (wide, d)}
                shapes |= {f"{side}_{number}_{part}": shape for part, shape in layer.items()}
        # A bias is as wide as what it is added to.
        every: dict[str, tuple[int, ...]] = {}
        for name in self.names():
            every[name] = shapes[name.removesuffix("_bias")][-1:] if name.endswith("_bias") else shapes[name]
        return every
