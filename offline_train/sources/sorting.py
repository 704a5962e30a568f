"""Sorting more lines than fit into memory: sorted runs on disk, then one merge."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

RUN_LINES = 250_000  #: lines held in memory, about 100 MB of events


class TimeSorter:
    """Collects lines with their times and gives them back in time order; lines of one time in the order of `add`.

    `folder` is an existing folder for the runs; the caller removes it. Lines must not hold a newline (JSON doesn't).

        sorter = TimeSorter(folder, "views")
        sorter.add(ts_ms, line)
        for line in sorter: ...
    """

    def __init__(self, folder: Path, name: str, run_lines: int = RUN_LINES) -> None:
        self._folder, self._name, self._run_lines = folder, name, run_lines
        self._held: list[tuple[int, int, bytes]] = []
        self._runs: list[Path] = []
        self._added = 0

    def __len__(self) -> int:
        return self._added

    def add(self, ts_ms: int, line: bytes) -> None:
        """Take a line that belongs at `ts_ms`."""
        self._held.append((ts_ms, self._added, line))
        self._added += 1
        if len(self._held) >= self._run_lines:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        self._held.sort()
        with ExitStack() as files:
            runs = [_read(files.enter_context(path.open("rb"))) for path in self._runs]
            for _, _, line in heapq.merge(*runs, self._held):
                yield line

    def _spill(self) -> None:
        self._held.sort()
        path = self._folder / f"{self._name}-{len(self._runs)}.run"
        with path.open("wb") as file:
            file.writelines(b"%d %d %s\n" % entry for entry in self._held)
        self._runs.append(path)
        self._held.clear()


def _read(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    for entry in file:
        ts_ms, order, line = entry.split(b" ", 2)
        yield int(ts_ms), int(order), line[:-1]
