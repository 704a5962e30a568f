"""The ledger of what is in flight: slices of partitions, and the watermark up to which each partition is confirmed.

A slice is a run of records of one partition. It is settled when everything that came of it (state, recommendations,
dead letters, forwarded events) is confirmed by the broker. Slices settle in any order; a partition's watermark only
moves over a settled prefix, so a commit never skips an unconfirmed record.
"""

from __future__ import annotations

from collections import deque

Partition = tuple[str, int]


class Slice:
    """A run of records of one partition. `waiting`: what is still unconfirmed, and the hold of whoever fills it."""

    __slots__ = ("next_offset", "partition", "records", "waiting")

    def __init__(self, partition: Partition, records: int, next_offset: int) -> None:
        self.partition = partition
        self.records = records
        self.next_offset = next_offset
        self.waiting = 1


class Ledger:
    """All slices in flight, and the watermarks."""

    def __init__(self) -> None:
        self._open: dict[Partition, deque[Slice]] = {}
        self.watermarks: dict[Partition, int] = {}
        self.records_in_flight = 0

    def open(self, partition: Partition, records: int, next_offset: int) -> Slice:
        """A new slice, held by the caller until its first `settle`.

        Raises:
            ValueError: the slice does not come after the partition's last one.
        """
        behind = self.end(partition)
        if next_offset <= behind:
            raise ValueError(f"slice up to {next_offset} of {partition} comes after one up to {behind}")
        new = Slice(partition, records, next_offset)
        self._open.setdefault(partition, deque()).append(new)
        self.records_in_flight += records
        return new

    def end(self, partition: Partition) -> int:
        """The offset after the partition's last slice, settled or not; 0 if there was none."""
        queue = self._open.get(partition)
        return queue[-1].next_offset if queue else self.watermarks.get(partition, 0)

    def settle(self, settled: Slice) -> bool:
        """One thing that `settled` waits for is confirmed. Returns whether its partition's watermark moved."""
        settled.waiting -= 1
        if settled.waiting > 0:
            return False
        queue = self._open.get(settled.partition)
        moved = False
        while queue and queue[0].waiting <= 0:
            done = queue.popleft()
            self.watermarks[done.partition] = done.next_offset
            self.records_in_flight -= done.records
            moved = True
        return moved

    def clear(self) -> None:
        """Forget everything: the partitions are no longer ours."""
        self._open.clear()
        self.watermarks.clear()
        self.records_in_flight = 0
