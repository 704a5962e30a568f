"""The ids of rows, and lists of them as they are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_runtime import choice
from model_runtime.items import encode_items
from model_runtime.rows import Column, Rows

if TYPE_CHECKING:
    from model_runtime.live_ranker import Ranked

_quoted = msgspec.json.Encoder().encode


class Names:
    """Ids by row: those of a bundle, then those that came later. One thread may append while others read."""

    def __init__(self, ids: NDArray[np.object_]) -> None:
        self._ids = ids
        self._late: list[str] = []
        self._packed: _Packed | None = None

    def __len__(self) -> int:
        return len(self._ids) + len(self._late)

    def append(self, name: str) -> None:
        """The id of the next row."""
        self._late.append(name)

    def all(self) -> NDArray[np.object_]:
        """The id of each row, [rows]; a copy if any came later than the bundle."""
        return np.concatenate((self._ids, np.array(self._late, dtype=object))) if self._late else self._ids

    def of(self, rows: Rows) -> list[str]:
        """Ids of rows [n]."""
        n = len(self._ids)
        if len(rows) == 0 or rows.max() < n:
            names: list[str] = self._ids[rows].tolist()
            return names
        return [self._ids[row] if row < n else self._late[row - n] for row in rows.tolist()]

    def pack(self) -> None:
        """Do what `items` needs once, and would else do for its first lists."""
        if self._packed is None:
            self._packed = _Packed(self._ids)

    def items(self, lists: Sequence[Ranked]) -> list[bytes]:
        """The JSON array of each list's items. For the scoring thread.

        Raises:
            ValueError: a score is not finite.
        """
        module = choice.module()
        if module is None or not lists or any(one.parts is not None for one in lists):
            return [self._items(one) for one in lists]
        self.pack()
        assert self._packed is not None
        self._packed.follow(self._late)
        ends = np.cumsum([len(one.rows) for one in lists])
        rows = np.concatenate([one.rows for one in lists]).astype(np.int64, copy=False)
        scores = np.concatenate([one.scores for one in lists])
        text, starts = module.items(rows, scores, ends, *self._packed.parts())
        whole: bytes = text.tobytes()
        at = starts.tolist()
        return [
            whole[begin:end] if end > begin else self._items(one)
            for begin, end, one in zip(at[:-1], at[1:], lists, strict=True)
        ]

    def _items(self, one: Ranked) -> bytes:
        return encode_items(self.of(one.rows), one.scores.tolist(), one.parts)


class _Packed:
    """Ids as JSON strings, one after another."""

    def __init__(self, ids: NDArray[np.object_]) -> None:
        self._base = _pack(ids)
        self._text, self._ends = Column(None, np.uint8), Column(None, np.int64)
        self._count = 0

    def follow(self, late: list[str]) -> None:
        """What came since the last time."""
        if new := late[self._count :]:  # more may come at any moment: what was taken is what counts
            text, ends = _pack(new)
            self._ends.extend(ends[1 if self._count else 0 :] + len(self._text))
            self._text.extend(text)
            self._count += len(new)

    def parts(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """The bundle's and the later ones: text, and where each row's begins and the last one's ends."""
        return *self._base, self._text.values(), self._ends.values()


def _pack(ids: Sequence[str] | NDArray[np.object_]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    quoted = [_quoted(id_) for id_ in ids]
    ends = np.zeros(len(quoted) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, quoted), np.int64, len(quoted)), out=ends[1:])
    return np.frombuffer(b"".join(quoted), np.uint8), ends
