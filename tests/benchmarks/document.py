"""docs/performance.md and its pictures, of `docs/performance.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import median

import matplotlib as mpl

from tests.benchmarks.results import Curve, Figure, Picture, Result

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

_INTRODUCTION = """\
# Performance

Made by `make bench`, which also writes `performance.json`. Each ratio is of two things measured in alternation in one
run: the median over the rounds, and the lowest and highest round. Rates, times and memory belong to the machine named
with each, and to its load at the time; ratios travel better.

![ratios](performance.png)

| benchmark | ratio | lowest – highest | wanted | rounds | a | b | |
|---|---|---|---|---|---|---|---|"""

_RATE, _COST = ("a rate: more is better", "#4c78a8"), ("time, cost or memory: less is better", "#e8a33d")


def document(results: Sequence[Result], about: Mapping[str, str]) -> str:
    """docs/performance.md. `about`: per benchmark, what is measured and how."""
    lines = [_INTRODUCTION]
    for row in results:
        a, b = (median(side) for side in zip(*row.pairs, strict=True))
        lines.append(
            f"| `{row.name}` | **{_number(row.ratio)}** | {_number(row.low)} – {_number(row.high)} | {row.wanted} "
            f"| {row.runs} | {_number(a)} | {_number(b)} | {row.unit} |"
        )
    last = ""
    for section in _sections(results, about):
        first = section[0]
        lines += ["", f"## {_common(section)}", ""]
        lines += [about.get(first.name, "").strip(), ""]
        if len({(row.a, row.b) for row in section}) == 1:
            lines += [f"a: {first.a}; b: {first.b}."]
        else:
            lines += ["| benchmark | a | b |", "|---|---|---|"]
            lines += [f"| `{row.name}` | {row.a} | {row.b} |" for row in section]
        if any(row.figures for row in section):
            lines += ["", "| figure | median | lowest – highest | rounds |", "|---|---|---|---|"]
            lines += [_figure(figure) for row in section for figure in row.figures]
        for picture in (picture for row in section for picture in row.pictures):
            lines += ["", f"![{picture.title}]({picture_file(picture.name)})"]
        for machine in dict.fromkeys(row.machine for row in section):
            rows = [row.name for row in section if row.machine == machine]
            those = "" if len(rows) == len(section) else " (" + ", ".join(f"`{name}`" for name in rows) + ")"
            lines += ["", f"Measured on{those}: {'the same' if machine == last else machine}."]
            last = machine
    return "\n".join(lines) + "\n"


def _sections(results: Sequence[Result], about: Mapping[str, str]) -> list[list[Result]]:
    """Rows that are told about together: one of which nothing is said belongs to the one before it."""
    sections: list[list[Result]] = []
    for row in results:
        if sections and not about.get(row.name, "").strip():
            sections[-1].append(row)
        else:
            sections.append([row])
    return sections


def _common(section: Sequence[Result]) -> str:
    """What a section is called: what its rows' names begin with, or else all of them."""
    words = zip(*(row.name.split("-") for row in section), strict=False)
    same = [word[0] for word in takewhile(lambda word: len(set(word)) == 1, words)]
    return "-".join(same).removesuffix("-vs") or ", ".join(row.name for row in section)


def draw_all(results: Sequence[Result], folder: Path) -> None:
    """Every picture of the document."""
    draw_ratios(results, folder / "performance.png")
    for row in results:
        for picture in row.pictures:
            draw(picture, folder / picture_file(picture.name))


def draw_ratios(results: Sequence[Result], path: Path) -> None:
    """A bar per ratio, with its spread: of rates, where more is better, and of times, costs and memory."""
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.34 * len(results)), layout="constrained")
    for row, result in enumerate(reversed(results)):
        error = [[result.ratio - result.low], [result.high - result.ratio]]
        label, color = _RATE if result.unit.endswith("/s") else _COST
        axes.barh(row, result.ratio, xerr=error, color=color, capsize=3, label=label)
        axes.annotate(_number(result.ratio), (result.high, row), xytext=(6, -4), textcoords="offset points")
    axes.set_yticks(range(len(results)), [result.name for result in reversed(results)])
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("ratio of a to b (median; whiskers: lowest and highest round)")
    axes.margins(x=0.12, y=0.01)
    handles, labels = axes.get_legend_handles_labels()
    one_each = dict(zip(labels, handles, strict=True))
    axes.legend(one_each.values(), one_each.keys(), loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(picture: Picture, path: Path) -> None:
    """Panels side by side, a line with its band for each curve."""
    panels: dict[str, list[Curve]] = {}
    for curve in picture.curves:
        panels.setdefault(curve.panel, []).append(curve)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.4 * columns, 3.4 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (panel, curves) in zip(grid.flat, panels.items(), strict=False):
        for curve in curves:
            (line,) = axes.plot(curve.x, curve.y, marker="o" if len(curve.x) < 20 else None, label=curve.label)
            if curve.low:
                axes.fill_between(curve.x, curve.low, curve.high, color=line.get_color(), alpha=0.2)
        if picture.x_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if picture.y_log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(picture.x_label)
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        if any(curve.label for curve in curves):
            axes.legend(fontsize="small")
    figure.suptitle(picture.title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def picture_file(name: str) -> str:
    """The file of a picture, beside the document."""
    return f"performance-{name}.png"


def _figure(figure: Figure) -> str:
    value = f"{_number(figure.value)} {figure.unit}".strip()
    return f"| {figure.name} | {value} | {_number(figure.low)} – {_number(figure.high)} | {figure.runs} |"


def _number(value: float) -> str:
    """Three digits, and thousands set apart."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
