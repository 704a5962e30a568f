"""`f`: from live features and the SR's score to what is added to that score (`lsvcr.md` §7). A few hundred numbers.

    score = SR + f(φ, SR),   f(x) = x̂·w + tanh(x̂ U + b)·v,   x̂ = (x - mean) / scale

Without a hidden layer the second term is missing. A constant would change no ranking, so there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.manifest import BundleError


class Blend(Struct, frozen=True):
    """The weights of `f` for one task, as the bundle holds them. F features, H hidden units (0: `f` is linear)."""

    features: list[str]  #: [F] names, in the order of the weights
    mean: list[float]  #: [F]
    scale: list[float]  #: [F]
    linear: list[float]  #: [F]
    hidden: list[list[float]] = []  #: [F][H]
    bias: list[float] = []  #: [H]
    out: list[float] = []  #: [H]

    def check(self, where: str, known: Sequence[str]) -> None:
        """Raises BundleError if the shapes don't fit, a number is not finite, or a feature is not among the known."""
        wide, tall = len(self.features), len(self.bias)
        if unknown := [name for name in self.features if name not in known]:
            raise BundleError(f"{where}: unknown feature {unknown[0]!r}; update this installation, or train again")
        fits = (
            len(self.mean) == len(self.scale) == len(self.linear) == wide
            and len(self.out) == tall
            and (not tall or (len(self.hidden) == wide and all(len(row) == tall for row in self.hidden)))
        )
        if not fits:
            raise BundleError(f"{where}: the weights' lengths don't agree; train again")
        numbers = [*self.mean, *self.scale, *self.linear, *self.bias, *self.out, *chain.from_iterable(self.hidden)]
        if not np.isfinite(numbers).all() or min(self.scale, default=1.0) <= 0:
            raise BundleError(f"{where}: a weight is not finite, or a scale not positive; train again")


class Blender:
    """A `Blend` ready to be applied."""

    def __init__(self, blend: Blend) -> None:
        self.features = tuple(blend.features)
        mean, scale = (np.array(values, np.float32) for values in (blend.mean, blend.scale))
        # The standardisation goes into the weights once, and not into every candidate.
        linear = np.array(blend.linear, np.float32) / scale
        self._linear = linear
        self._offset = -float(mean @ linear)
        self._hidden: NDArray[np.float32] | None = None
        if blend.bias:
            hidden = np.array(blend.hidden, np.float32) / scale[:, None]
            self._hidden, self._out = hidden, np.array(blend.out, np.float32)
            self._bias = np.array(blend.bias, np.float32) - mean @ hidden

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """f of features [..., F], [...]."""
        value = features @ self._linear + np.float32(self._offset)
        if self._hidden is not None:
            value += np.tanh(features @ self._hidden + self._bias) @ self._out
        return np.asarray(value, np.float32)
