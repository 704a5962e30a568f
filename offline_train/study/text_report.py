"""The part of `results.md` about text and stage 1: a table, a picture, and whether stage 1 pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

from offline_train.cold import STUDENT, TEACHER, UNKNOWN_FIRST
from offline_train.comparison import HEADLINE, NOT_TOLD_APART, Row, compare, rows
from offline_train.evaluation import Result
from offline_train.figures import saved, tidy
from offline_train.study.texts import FULL, IDS, RAW, SVD

_TASKS = {"video": "Videos", "comment": "Comments"}

#: ends the name of a ranking of what came after training
_COLD = ", cold"

#: results of one task and ranking, by row
Found = Mapping[str, Sequence[Result]]
#: mean and standard deviation over seeds, the latter nan for one seed
Shown = tuple[float, float]


def section(data: str, slug: str, results: Sequence[Result], how: str, pictures: Path) -> str:
    """Markdown; empty without results. `how`: the settings of stage 1, in a sentence."""
    panels = _panels(results)
    if not panels:
        return ""
    lines = [
        f"### Text and stage 1 ({data})\n",
        f"The SR alone, in rows that differ in one thing. {how}\n",
        "| task | ranking | row | NDCG@10 | difference from lsvcr | seeds |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = []
    for (task, protocol), found in panels.items():
        for name, each in found.items():
            mean, std = _figures(data, each)
            shown = f"{mean:.4f}" + (f" ± {std:.4f}" if len(each) > 1 else "")
            difference = ""
            if name != FULL and FULL in found:
                verdict = compare(each, _same_seeds(found[FULL], each))
                difference = str(verdict)
            bold = "**" if name == FULL else ""
            lines.append(f"| {task} | {protocol} | {bold}{name}{bold} | {shown} | {difference} | {len(each)} |")
        for stage2 in ("", f" ({task}s alone)"):
            if FULL + stage2 in found and RAW + stage2 in found:
                verdicts.append(_pays(data, task, protocol, found, stage2))
    picture = _draw(data, panels, pictures / f"{slug}-text.png")
    explained = "Differences ± standard error over targets; rows of one seed are compared with lsvcr's same seed."
    if any(name.endswith(UNKNOWN_FIRST) for found in panels.values() for name in found):
        explained += (
            f" With {UNKNOWN_FIRST}, videos that training did not know stand before all others: what a row gains by "
            "that it lost by placing new videos too low, and not by how it tells videos apart; what is random then "
            "knows which videos are new, and no more."
        )
    return "\n".join([*lines, "", explained, "", *verdicts, "", f"![What text is worth](results/{picture.name})\n"])


def is_row(row: Row) -> bool:
    """Whether a row of `results.json` belongs to this part."""
    model = row.model.removeprefix("text profile (").removesuffix(f", {UNKNOWN_FIRST}")
    own = model == SVD or model.startswith((IDS, RAW, FULL)) or row.model.endswith(UNKNOWN_FIRST)
    return own or row.protocol.endswith(_COLD)


def named(cold: Sequence[Result]) -> list[Result]:
    """The results on what came after training, with a ranking's name of their own."""
    return [replace(result, protocol=f"{result.protocol}{_COLD}") for result in cold]


def cold_section(data: str, cold: Sequence[Result]) -> str:
    """Markdown on the student's ranking of what came after training; empty without results."""
    if not cold:
        return ""
    lines = [
        f"### New titles and comments ({data})\n",
        "Targets first seen after the training period, ranked with the vectors of the aligned language model (teacher) "
        "and with those that the bundle's student makes of the same texts.\n",
        "| task | ranking | targets | teacher | student | the student keeps |",
        "|---|---|---|---|---|---|",
    ]
    for (task, protocol), found in _panels(cold).items():
        teacher, student = found[TEACHER], found[STUDENT]
        (whole, _), (part, _) = _figures(data, teacher), _figures(data, student)
        if whole > 0:
            error = compare(student, teacher).error
            cells = (task, protocol, f"{len(teacher[0].ranks):,}", f"{whole:.4f}", f"{part:.4f}")
            lines.append(f"| {' | '.join(cells)} | {part / whole:.1%} ± {error / whole:.1%} |")
    return "\n".join([*lines, "", "± one standard error over targets.\n"])


def _panels(results: Iterable[Result]) -> dict[tuple[str, str], dict[str, list[Result]]]:
    panels: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for task in _TASKS:
        for protocol in ("as-of", "full"):
            for result in results:
                if (result.task, result.protocol) == (task, protocol) and result.values:
                    panels.setdefault((task, protocol), {}).setdefault(result.model, []).append(result)
    return panels


def _same_seeds(whole: Sequence[Result], each: Sequence[Result]) -> Sequence[Result]:
    """Ablations are of the first seeds alone."""
    return whole[: len(each)]


def _figures(data: str, each: Sequence[Result]) -> tuple[float, float]:
    (row,) = [row for row in rows(data, each) if row.metric == HEADLINE]
    return row.mean, row.std


def _pays(data: str, task: str, protocol: str, found: Found, stage2: str = "") -> str:
    """Whether stage 1 pays before a stage 2 of one kind, which ends the names of its rows."""
    full, without = found[FULL + stage2], found[RAW + stage2]
    (whole, spread), (raw, other) = _figures(data, full), _figures(data, without)
    verdict = compare(full, without)
    said = (
        f"- {_TASKS[task]}, {protocol}: {FULL}{stage2} is {verdict.word} {RAW}{stage2} by targets "
        f"({verdict.difference:+.4f} ± {verdict.error:.4f})"
    )
    if min(len(full), len(without)) < 2:
        return f"{said}, one seed, so without a spread of seeds."
    if verdict.word == NOT_TOLD_APART:  # a difference that may be none has no spread to be beyond
        return f"{said}."
    beyond = abs(whole - raw) > max(spread, other)
    return f"{said}, {'beyond' if beyond else 'within'} the seeds' spread ({max(spread, other):.4f})."


def _draw(data: str, panels: Mapping[tuple[str, str], Found], path: Path) -> Path:
    shown: dict[tuple[str, str], dict[str, Shown]] = {}
    for panel, found in panels.items():
        for name, each in found.items():
            mean, std = _figures(data, each)
            shown.setdefault(panel, {})[name] = mean, std if len(each) > 1 else float("nan")
    return draw(data, shown, path)


def draw(data: str, panels: Mapping[tuple[str, str], Mapping[str, Shown]], path: Path) -> Path:
    """The rows' picture, a panel for each task and ranking; rows may have no `Result` any more, only figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    most = max(map(len, panels.values()))
    size = 4.8 * len(panels), max(3.8, 0.24 * most + 1.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axis, ((task, protocol), found) in zip(axes[0], panels.items(), strict=True):
        for place, (name, (mean, error)) in enumerate(reversed(list(found.items()))):
            colour = "#c8553d" if name == FULL else "#5b6b8c"
            axis.errorbar(mean, place, xerr=error, fmt="o", color=colour, capsize=2)
        axis.set_yticks(range(len(found)), list(found)[::-1])
        axis.grid(axis="y", alpha=0.3)
        axis.set_title(f"{_TASKS[task]}, {protocol}", fontsize=10)
        axis.locator_params(axis="x", nbins=4)
        tidy(axis, 7)
    several = any(isfinite(error) for found in panels.values() for _, error in found.values())
    spread = "whiskers: standard deviation, where there are several runs" if several else "one run each"
    figure.supxlabel(f"NDCG@10 ({spread})", fontsize=9)
    figure.suptitle(f"{data}: the SR on other texts, and less parts of stage 1")
    return saved(figure, path)
