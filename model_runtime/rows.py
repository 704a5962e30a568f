"""Tables that grow: the rows of a bundle, memory-mapped and shared, and behind them rows that came later."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp] | NDArray[np.int32]

_FIRST_CAPACITY = 1024


class Column:
    """An array that grows at its end, amortised O(1) a row: capacity doubles.

    One thread appends and assigns while others read: a row is written before `len` tells of it, and a reader keeps the
    array that it was handed.
    """

    def __init__(self, width: int | None, dtype: Any) -> None:
        """`width`: numbers per row, None for one number without an axis of its own."""
        self._shape = () if width is None else (width,)
        self._array = np.empty((0, *self._shape), dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, rows: NDArray[Any]) -> None:
        """Append rows, [n] or [n, width]."""
        end = self._count + len(rows)
        if end > len(self._array):
            grown = np.empty((max(2 * len(self._array), end, _FIRST_CAPACITY), *self._shape), self._array.dtype)
            grown[: self._count] = self._array[: self._count]
            self._array = grown
        self._array[self._count : end] = rows
        self._count = end

    def values(self) -> NDArray[Any]:
        """All rows as a view, good also after more are appended."""
        count = self._count  # before the array: a newer array has at least as many
        view: NDArray[Any] = self._array[:count]
        return view


class Table:
    """float32 vectors by row: those of a bundle, which are never copied, then those that came later."""

    def __init__(self, base: NDArray[np.float32]) -> None:
        self.base = base  # [n, d]
        self.late = Column(base.shape[1], np.float32)
        self._parts = _read_only(base), _read_only(self.late.values())

    def __len__(self) -> int:
        return len(self.base) + len(self.late)

    def parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The bundle's rows and those that came later, read-only views."""
        if len(self._parts[1]) != len(self.late):
            self._parts = _read_only(self.base), _read_only(self.late.values())
        return self._parts

    def take(self, index: Rows, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Vectors at `index` (any shape), [..., d]; zeros where it is -1."""
        out = take(self.base, index, out)
        if len(self.late):
            at = np.nonzero(index >= len(self.base))
            if len(at[0]):
                out[at] = self.late.values()[index[at] - len(self.base)]
        return out


def _read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    view = array.view()
    view.flags.writeable = False
    return view


def take(table: NDArray[np.float32], index: Rows, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Rows of a table, zeros where the index is outside of it."""
    if out is None:
        out = np.empty((*index.shape, table.shape[1]), dtype=np.float32)
    if len(table) == 0:
        out.fill(0)
        return out
    # "clip" reads row 0 for -1, and unlike "raise" it writes into `out` without a copy between
    np.take(table, index, axis=0, out=out, mode="clip")
    out[(index < 0) | (index >= len(table))] = 0
    return out


def inverse_lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 over the length of each vector of [n, d], 0 for zeros; [n]."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
