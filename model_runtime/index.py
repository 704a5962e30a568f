"""Where an id stands in a bundle's tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Index(dict[str, int]):
    """Row by id; -1 for an unknown id, so that `map(index.__getitem__, history)` looks up a history at C speed."""

    @classmethod
    def of(cls, ids: NDArray[np.object_]) -> Index:
        return cls(zip(ids, range(len(ids)), strict=True))

    def __missing__(self, key: str) -> int:
        return -1

    def mask(self, ids: Iterable[str], rows: int) -> tuple[NDArray[np.bool_], int]:
        """A mask over `rows` rows that is true at those of `ids`, and how many of `ids` are unknown."""
        at = np.fromiter(map(self.__getitem__, ids), dtype=np.intp)
        known = at[at >= 0]
        mask = np.zeros(rows, dtype=bool)
        mask[known] = True
        return mask, len(at) - len(known)
