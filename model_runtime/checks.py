"""What must be true of a bundle's tables of vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_runtime.manifest import BundleError

_BLOCK_ROWS = 1 << 16  # tables are checked in blocks, so that checking doesn't need a second table's memory


def check_finite(file: Path, table: NDArray[np.float32]) -> None:
    """Raises BundleError if a number of `table` [n, d] is not finite."""
    for start in range(0, len(table), _BLOCK_ROWS):
        finite = np.isfinite(table[start : start + _BLOCK_ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise BundleError(f"{file}: row {row} is not finite; the training diverged, export an earlier checkpoint")


def check_normalised(file: Path, table: NDArray[np.float32]) -> None:
    """Raises BundleError if a row of `table` [n, d] has another length than 1 or 0."""
    for start in range(0, len(table), _BLOCK_ROWS):
        squares = np.einsum("nd,nd->n", *(2 * [table[start : start + _BLOCK_ROWS]]))
        # An all-zero row is a video of which nothing is known.
        wrong = (np.abs(squares - 1) > 1e-3) & (squares != 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            length = float(np.sqrt(squares[row]))
            raise BundleError(f"{file}: row {start + row} has length {length:.4f}; normalise the rows to length 1")
