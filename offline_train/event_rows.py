"""The events of a log as columns, in memory or, where there are more than fit, in memory-mapped files.

    rows = EventRows("scratch")
    rows.add("e1", kind=0, user=0, ...)
    columns, event_ids = rows.sorted()

Rows are collected a block at a time. Sorting has keys and order of all rows in memory at once, and nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from streams.history import event_digest

_BLOCK = 1 << 18

#: every column, in the order of `EventRows.add`, and what it is kept as (see `Log`)
COLUMNS: dict[str, type[np.generic]] = {
    "kind": np.int8,
    "user": np.int32,
    "video": np.int32,
    "comment": np.int32,
    "ts_ms": np.int64,
    "engaged": np.bool_,
    "hate": np.bool_,
    "watch_ms": np.int64,
    "duration_ms": np.int64,
    "actions": np.uint8,
}


class EventRows:
    """Collects events, then sorts them."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._columns = {name: Blocks(kind, name, self._folder) for name, kind in COLUMNS.items()}
        self._digest = Blocks(np.uint64, "digest", self._folder)
        self._ids = Blocks(np.uint8, "ids", self._folder)
        self._lengths = Blocks(np.int64, "lengths", self._folder)
        self._clear()

    def add(
        self,
        event_id: str,
        kind: int,
        user: int,
        video: int,
        comment: int,
        ts_ms: int,
        engaged: bool,
        hate: bool,
        watch_ms: int,
        duration_ms: int,
        actions: int,
    ) -> None:
        """Add an event; users, videos and comments by their index."""
        self._numbers.extend((kind, user, video, comment, ts_ms, engaged, hate, watch_ms, duration_ms, actions))
        self._digests.append(event_digest(event_id))
        self._names.append(event_id.encode())
        if len(self._names) == _BLOCK:
            self._flush()

    def sorted(self) -> tuple[dict[str, np.ndarray], Sequence[str]]:
        """The columns and `digest`, and the ids, by (ts_ms, digest); no more rows after that.

        An id that a user has twice for one kind counts once.
        """
        self._flush()
        raw = {name: column.whole() for name, column in self._columns.items()} | {"digest": self._digest.whole()}
        order = np.lexsort((raw["digest"], raw["ts_ms"]))
        order = order[np.sort(_first(raw["kind"], raw["user"], raw["digest"], order))]
        keep = Kept(self._folder)
        columns = {name: keep.taken(name, column, order) for name, column in raw.items()}
        ends = keep("ends", np.cumsum(self._lengths.whole()))
        ids = Strings(self._ids.whole(), ends, keep("order", order))
        for column in (*self._columns.values(), self._digest, self._lengths):
            column.discard()
        return columns, ids

    def _flush(self) -> None:
        numbers = np.array(self._numbers, np.int64).reshape(-1, len(COLUMNS))
        for at, column in enumerate(self._columns.values()):
            column.append(numbers[:, at])
        self._digest.append(np.array(self._digests, np.uint64))
        self._ids.append(np.frombuffer(b"".join(self._names), np.uint8))
        self._lengths.append(np.fromiter(map(len, self._names), np.int64, len(self._names)))
        self._clear()

    def _clear(self) -> None:
        self._numbers, self._digests = array("q"), array("Q")
        self._names: list[bytes] = []


class Blocks:
    """A column that grows by blocks: a list of arrays, or a file."""

    def __init__(self, kind: type[np.generic], name: str, folder: Path | None) -> None:
        self._kind, self._blocks = np.dtype(kind), [np.empty(0, kind)]
        self._path = None if folder is None else folder / f"{name}.raw"
        if self._path is not None:
            self._path.unlink(missing_ok=True)  # another log may still have the old file mapped: it stays as it is
            self._path.touch()

    def append(self, values: np.ndarray) -> None:
        """Add values [n]."""
        values = values.astype(self._kind)
        if self._path is None:
            self._blocks.append(values)
            return
        with self._path.open("ab") as file:
            values.tofile(file)

    def whole(self) -> np.ndarray:
        """All values."""
        if self._path is None:
            self._blocks = [np.concatenate(self._blocks)]
            return self._blocks[0]
        if not self._path.stat().st_size:
            return self._blocks[0]
        return np.memmap(self._path, self._kind, "r")

    def discard(self) -> None:
        """Remove the file: what was mapped of it stays until it is let go."""
        if self._path is not None:
            self._path.unlink()


class Kept:
    """Keeps finished arrays: in memory, or as files that are mapped when they are used."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, values: np.ndarray) -> np.ndarray:
        """An array as it will be used."""
        return values if self._folder is None else self.taken(name, values, None)

    def taken(self, name: str, values: np.ndarray, order: np.ndarray | None) -> np.ndarray:
        """The same of some of its rows; never more than a block of them in memory if there is a folder."""
        count = len(values if order is None else order)
        if self._folder is None or not count:
            return np.asarray(values if order is None else values[order])
        path = self._folder / f"{name}.npy"
        path.unlink(missing_ok=True)
        out: np.memmap = np.lib.format.open_memmap(path, "w+", values.dtype, (count,))
        for at in range(0, count, _BLOCK):
            rows = slice(at, at + _BLOCK)
            out[rows] = values[rows] if order is None else values[order[rows]]
        out.flush()
        return np.load(path, mmap_mode="r")


class Strings(Sequence[str]):
    """Strings end to end in one array of bytes, in an order of their own: read-only, and no object for each."""

    def __init__(self, content: np.ndarray, ends: np.ndarray, order: np.ndarray) -> None:
        self._content, self._ends, self._order = content, ends, order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        row = int(self._order[at])
        first = int(self._ends[row - 1]) if row else 0
        return self._content[first : int(self._ends[row])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _first(kind: np.ndarray, user: np.ndarray, digest: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Places in `order` of rows of which no earlier one has the same kind, user and digest."""
    same = np.lexsort((user[order], digest[order]))  # stable: of equal rows, the earlier place comes first
    rows = order[same]
    new = np.ones(len(rows), bool)
    # Rows of one user and digest lie together, its kinds mixed: there are two.
    for kind_ in (0, 1):
        mine = np.flatnonzero(kind[rows] == kind_)
        at = rows[mine]
        new[mine[1:]] = (digest[at[1:]] != digest[at[:-1]]) | (user[at[1:]] != user[at[:-1]])
    return same[new]
