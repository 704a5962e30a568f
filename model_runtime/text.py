"""The student text encoder: vectors for titles and comments that training never saw.

It stands in for the trainer's `A t(x)` (where t may be a large language model): a vector per hashed feature, summed,
brought to unit length, and mapped to d. Distilled by `offline_train.distill`.

Plain NumPy and not ONNX Runtime, which pads the texts of a batch to the longest: measured on film reviews of 122
characters, the sum took 27 to 44 µs a text here, 79 to 103 µs there.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_runtime.hashing import FEATURES_VERSION, features
from model_runtime.manifest import BundleError

#: added to lengths: a sum of so little that it says nothing stays near zero, and no feature at all gives zero
FLOOR = 1e-3

_CHUNK = 256  # texts whose features are computed together: fewer cost calls, more leave the processor's cache


@dataclass(frozen=True)
class Student:
    """A trained encoder. Thread-safe: nothing in it changes."""

    table: NDArray[np.int8]  # [2^bits, h], one row per bucket of features
    scales: NDArray[np.float32]  # [2^bits], what a row of the table is multiplied with
    weight: NDArray[np.float32]  # [h, d]
    bias: NDArray[np.float32]  # [d]

    @property
    def bits(self) -> int:
        return len(self.table).bit_length() - 1

    @property
    def dim(self) -> int:
        return len(self.bias)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts in any script, [n, d]; zero for a text without a single known feature."""
        sums = np.zeros((len(texts), self.table.shape[1]), dtype=np.float32)
        for chunk in range(0, len(texts), _CHUNK):
            buckets, starts = features(texts[chunk : chunk + _CHUNK], self.bits)
            scales = self.scales.take(buckets)
            bounds = starts.tolist()
            for i, (first, last) in enumerate(pairwise(bounds), chunk):
                rows = self.table.take(buckets[first:last], axis=0).astype(np.float32)
                np.dot(scales[first:last], rows, out=sums[i])
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        share = length / (length + FLOOR)
        vectors: NDArray[np.float32] = (sums / (length + FLOOR)) @ self.weight + share * self.bias
        return vectors

    def to_bytes(self) -> bytes:
        """The file's content; equal students give equal bytes."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            features_version=np.array(FEATURES_VERSION, np.int32),
            table=self.table,
            scales=self.scales,
            weight=self.weight,
            bias=self.bias,
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, file: str | Path, dim: int) -> Student:
        """Read a student whose vectors must be `dim` wide.

        Raises:
            BundleError: no student, one of another features version, or with tables that don't fit together.
        """
        try:
            with np.load(file, allow_pickle=False) as saved:
                version = int(saved["features_version"])
                if version != FEATURES_VERSION:
                    raise BundleError(
                        f"{file}: reads texts by features version {version}, but this installation has "
                        f"{FEATURES_VERSION}; train the student again"
                    )
                student = cls(*(np.ascontiguousarray(saved[name]) for name in ("table", "scales", "weight", "bias")))
        except BundleError:
            raise
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise BundleError(f"{file}: {error}; export the model again") from None
        if problem := student._problem(dim):
            raise BundleError(f"{file}: {problem}; export the model again")
        return student

    def _problem(self, dim: int) -> str | None:
        shapes = [part.shape for part in (self.table, self.scales, self.weight, self.bias)]
        types = [part.dtype for part in (self.table, self.scales, self.weight, self.bias)]
        if types != [np.int8, np.float32, np.float32, np.float32]:
            return f"its tables have types {', '.join(map(str, types))}"
        n, h = shapes[0] if len(shapes[0]) == 2 else (0, 0)
        if n < 2 or n & (n - 1) or shapes[1:] != [(n,), (h, dim), (dim,)]:
            return f"its tables have shapes {', '.join(str(list(shape)) for shape in shapes)} (d is {dim})"
        if not all(np.isfinite(part).all() for part in (self.scales, self.weight, self.bias)):
            return "a number in it is not finite"
        return None
