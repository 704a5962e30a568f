"""growth: what an event costs, and the worker's memory, as users, catalog, histories and partitions grow.

Each over two orders of magnitude while the others stay where they are: 2 000 active users, 10 000 videos, full
histories, 10 partitions. Processor time of the worker per event with all its threads, after every user was answered
once; memory is the process's resident part at the end. `history` is the events that each user had before: the window
keeps 50 of them, so a hundred cost what fifty do. The ratio is of the greatest to the smallest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import workload
from tests.benchmarks.costs import Broker, Cost
from tests.benchmarks.results import Curve, Figure, Measured, Picture
from tests.benchmarks.workload import Users

AXES = ("users", "videos", "history", "partitions")
_SIZES = {
    "users": (200, 2_000, 20_000),
    "videos": (10_000, 100_000, 1_000_000),
    "history": (1, 10, 100),
    "partitions": (1, 10, 100),
}
_QUICK = {"users": (50, 5_000), "videos": (1_000, 100_000), "history": (1, 100), "partitions": (1, 100)}
_MIDDLE = {"users": 2_000, "videos": 10_000, "history": 100, "partitions": 10}
_QUICK_MIDDLE = {**_MIDDLE, "users": 500}


@dataclass(frozen=True)
class Cell:
    """One place of the grid."""

    users: int
    videos: int
    history: int
    partitions: int


def run(folder: Path, *, rounds: int, quick: bool, names: list[str]) -> dict[str, Measured]:
    """Microseconds of processor time per event as (greatest, smallest), by round, with all between as curves."""
    axes = [axis for axis in AXES if f"growth-{axis}" in names]
    sizes, middle = (_QUICK, _QUICK_MIDDLE) if quick else (_SIZES, _MIDDLE)
    cells = {(axis, size): Cell(**{**middle, axis: size}) for axis in axes for size in sizes[axis]}
    populations = {cell: _users(cell, number) for number, cell in enumerate(dict.fromkeys(cells.values()))}
    brokers = {}
    for partitions in sorted({cell.partitions for cell in populations}):
        theirs = [users for cell, users in populations.items() if cell.partitions == partitions]
        brokers[partitions] = Broker(folder / f"{partitions}", partitions, theirs)
    costs: dict[Cell, list[Cost]] = defaultdict(list)
    for number in range(rounds):
        for partitions, broker in brokers.items():
            with broker:
                for cell in [cell for cell in populations if cell.partitions == partitions]:
                    bundle = workload.bundle(cell.videos)
                    cost = broker.cost(populations[cell], 1_000 if quick else 5_000, bundle)
                    costs[cell].append(cost)
                    print(
                        f"  round {number + 1}/{rounds}: {cell}: {cost.micros:,.0f} us, {cost.memory:,.0f} MiB",
                        flush=True,
                    )
    found = {}
    for axis in axes:
        few, many = (costs[cells[axis, size]] for size in (sizes[axis][0], sizes[axis][-1]))
        found[f"growth-{axis}"] = Measured(
            [(a.micros, b.micros) for a, b in zip(many, few, strict=True)],
            [
                Figure.of(f"resident memory with {size:,} {axis}", "MiB", [cost.memory for cost in costs[place]])
                for (of, size), place in cells.items()
                if of == axis
            ],
            [_picture(axis, {size: costs[place] for (of, size), place in cells.items() if of == axis})],
        )
    return found


def _users(cell: Cell, number: int) -> Users:
    length = min(cell.history, workload.WINDOW)
    # Full histories are of many lengths, as windows that drop sixteen at once leave them.
    return Users(
        cell.users, videos=cell.videos, length=None if length == workload.WINDOW else length, seed=1000 + number
    )


def _picture(axis: str, costs: dict[int, list[Cost]]) -> Picture:
    x = [float(size) for size in costs]
    curves = []
    for panel, values in (
        ("µs of processor time per event", [[cost.micros for cost in some] for some in costs.values()]),
        ("resident MiB", [[cost.memory for cost in some] for some in costs.values()]),
    ):
        low, high = [min(some) for some in values], [max(some) for some in values]
        curves.append(Curve(panel, "", x, [median(some) for some in values], low, high))
    return Picture(f"growth-{axis}", f"Growth of {axis}", axis, curves, x_log=True)
