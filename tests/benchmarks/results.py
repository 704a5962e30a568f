"""What a benchmark found: ratios of two things by round, single figures with their spread, curves for pictures.

`docs/performance.json` is a list of `Result`; `docs/performance.md` and its pictures are made of nothing else.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec

PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "msgspec",
    "rocksdict",
    "redis",
    "onnxruntime",
    "numpy",
    "faiss-cpu",
)

Pairs = list[tuple[float, float]]


class Figure(msgspec.Struct):
    """One thing that was measured and is not a ratio: the median over the rounds, the lowest and the highest."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Figure:
        """Of one value per round."""
        return cls(name, unit, median(values), min(values), max(values), len(values))


class Curve(msgspec.Struct):
    """A line of a picture. Curves of one `panel` (its y axis' label) share axes. `low` and `high`: a band, or empty."""

    panel: str
    label: str
    x: list[float]
    y: list[float]
    low: list[float] = []
    high: list[float] = []


class Picture(msgspec.Struct):
    """Panels side by side, in `docs/performance-{name}.png`."""

    name: str
    title: str
    x_label: str
    curves: list[Curve]
    x_log: bool = False
    y_log: bool = False


class Measured(msgspec.Struct):
    """What one benchmark's `run` returns for one name."""

    pairs: Pairs  #: what was measured of a and of b, per round
    figures: list[Figure] = []
    pictures: list[Picture] = []
    also: str = ""  #: versions of what is not among `PACKAGES`


class Result(msgspec.Struct):
    """A row of docs/performance.json."""

    name: str
    ratio: float  #: of a to b, median over the rounds
    low: float
    high: float
    runs: int
    a: str
    b: str
    unit: str = ""  #: of the pairs
    wanted: str = ""  #: what the ratio should be
    pairs: Pairs = []
    figures: list[Figure] = []
    pictures: list[Picture] = []
    machine: str = ""  #: and versions


def result(name: str, a: str, b: str, unit: str, wanted: str, measured: Measured) -> Result:
    """Ratios of what was measured, on this machine."""
    ratios = sorted(one / other for one, other in measured.pairs)
    about = ", ".join(filter(None, (machine(), measured.also)))
    return Result(
        name, median(ratios), ratios[0], ratios[-1], len(ratios), a, b, unit, wanted,
        measured.pairs, measured.figures, measured.pictures, about,
    )  # fmt: skip


def machine() -> str:
    """Cores, processor, and the versions of everything that was measured with."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores, ours = os.cpu_count(), len(os.sched_getaffinity(0))  # fewer where the run is bound to some
    used = f"{cores} cores" if ours == cores else f"{ours} of {cores} cores"
    return f"{used} ({cpu}), Python {platform.python_version()}, {platform.system()}; {versions}"
