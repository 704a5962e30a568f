"""The document is put together from one part per data set: to do one again leaves the others as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from offline_train.comparison import Row


class Part(Struct, frozen=True):
    """What `results.md` has of one data set. The lists hold lines of tables, or bullets; `texts` is the comparison of
    texts, which can be made apart from the rest."""

    slug: str
    data: str
    overview: list[str]
    deployed: list[str]
    required: list[str]
    section: str
    how: list[str]
    texts: str = ""


def keep(parts: Sequence[Part], folder: Path) -> list[Part]:
    """Write parts into `folder`, and return all that are there, by name."""
    for part in parts:
        text = msgspec.json.format(msgspec.json.encode(part), indent=1)
        (folder / f"{part.slug}.json").write_bytes(text + b"\n")
    files = sorted(folder.glob("*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=Part) for file in files]


def written(out: Path, data: Sequence[str]) -> list[Part]:
    """What is written of these data sets.

    Raises:
        ValueError: nothing is written of one of them.
    """
    files = sorted((out / "results").glob("*.json"))
    found = {part.data: part for part in (msgspec.json.decode(file.read_bytes(), type=Part) for file in files)}
    if missing := [name for name in data if name not in found]:
        raise ValueError(f"{out / 'results'} has nothing of {', '.join(missing)} yet: make all of it first")
    return [found[name] for name in data]


def keep_rows(
    new: Sequence[Row],
    done: Sequence[str],
    parts: Sequence[Part],
    file: Path,
    among: Callable[[Row], bool] = lambda row: True,
) -> None:
    """Put the rows of the data sets in `done` into the file, beside those that it has of the other parts, and those of
    the same ones that are not `among` what was made anew."""
    known = {part.data for part in parts}
    old = msgspec.json.decode(file.read_bytes(), type=list[Row]) if file.exists() else []
    kept = [row for row in old if row.data in known and (row.data not in done or not among(row))]
    rows = sorted([*new, *kept], key=lambda row: row.data)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


def how_of(parts: Sequence[Part]) -> list[str]:
    """How the parts were made; lines that only some share begin with the names of their data sets."""
    lines: dict[str, list[str]] = {}
    for part in parts:
        for line in part.how:
            lines.setdefault(line, []).append(part.data)
    return [line if len(of) == len(parts) else f"{', '.join(of)}: {line}" for line, of in lines.items()]
