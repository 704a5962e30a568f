"""Amazon Beauty, 5-core: a benchmark of the literature with ids alone, each user's items in the order of time.

`Beauty.txt` as published with S3-Rec (Zhou et al., CIKM 2020): one user per line, `user item item ...`. It has no
times, no text and no comments, so it becomes sequences and no event log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offline_train.sources.writer import SourceError, require

FILE = "Beauty.txt"
ORIGIN = "the file Beauty.txt of RUCAIBox/CIKM2020-S3Rec"
#: a user has one item for the test, one for validation, and at least one to be known by
_LEAST = 3


@dataclass(frozen=True)
class Sequences:
    """n users' items, oldest first: user u's are `items[offsets[u] : offsets[u + 1]]`, each from 0 to `count` - 1."""

    offsets: np.ndarray  #: int64 [n + 1]
    items: np.ndarray  #: int64 [total]
    count: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def user(self) -> np.ndarray:
        """int64 [total]; whose each of `items` is."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def without_last(self, count: int) -> Sequences:
        """The same without each user's last `count` items (leave-one-out: 2 for training, 1 for validation)."""
        lengths = np.diff(self.offsets)
        place = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], lengths)
        kept = place < np.repeat(lengths - count, lengths)
        left = np.maximum(lengths - count, 0)
        return Sequences(np.concatenate(([0], np.cumsum(left))), self.items[kept], self.count)

    def last(self) -> np.ndarray:
        """int64 [n]; each user's last item."""
        return self.items[self.offsets[1:] - 1]


def read(folder: Path) -> Sequences:
    """The sequences of `folder/Beauty.txt`, items numbered in the order of their names.

    Raises:
        SourceError: the file is missing, or a line is not a user with at least three items.
    """
    path = require(folder, FILE, ORIGIN)
    lengths: list[int] = []
    names: list[int] = []
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                _, *items = map(int, line.split())
            except ValueError:
                raise SourceError(f"{path}, line {number}: expected a user and items, all numbers") from None
            if len(items) < _LEAST:
                raise SourceError(f"{path}, line {number}: {len(items)} items, but at least {_LEAST} are needed")
            lengths.append(len(items))
            names += items
    distinct, rows = np.unique(np.array(names, np.int64), return_inverse=True)
    return Sequences(np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), rows.astype(np.int64), len(distinct))
