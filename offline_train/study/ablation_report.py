"""The part of `results.md` about what live signals are made of: a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offline_train.comparison import Verdict, compare, headline
from offline_train.deployed import LIVE_NAME
from offline_train.evaluation import Result
from offline_train.figures import saved, tidy

_TASKS = {"video": "Videos", "comment": "Comments"}


def is_variant(model: str) -> bool:
    """Whether a row belongs into the table of parts alone."""
    return model.startswith((f"{LIVE_NAME} without", f"{LIVE_NAME},"))


def section(data: str, slug: str, results: Sequence[Result], pictures: Path) -> str:
    """What each part of live signals is worth: the whole less a part, and the difference target by target."""
    if not results:
        return ""
    lines = [f"### What live signals are made of ({data})\n"]
    lines.append("Each row leaves a part out; features left out mean that f is trained again without them.\n")
    bars: dict[str, list[tuple[str, Verdict]]] = {}
    for task in _TASKS:
        found: dict[str, list[Result]] = {}
        for result in results:
            if result.task == task and result.values:
                found.setdefault(result.model, []).append(result)
        if LIVE_NAME not in found:
            continue
        whole = found[LIVE_NAME]
        lines += [f"\n{_TASKS[task]}, {whole[0].protocol} ranking:\n", "| | NDCG@10 | difference |", "|---|---|---|"]
        lines.append(f"| **{LIVE_NAME}** | {headline(whole):.4f} | |")
        bars[f"{_TASKS[task]}, {whole[0].protocol}"] = []
        for name, each in found.items():
            if name != LIVE_NAME:
                verdict = compare(each, whole)
                lines.append(f"| {name} | {headline(each):.4f} | {verdict} |")
                bars[f"{_TASKS[task]}, {whole[0].protocol}"].append((name, verdict))
    picture = _draw(data, bars, pictures / f"{slug}-live.png")
    return "\n".join([*lines, f"\n![What each part of live signals is worth](results/{picture.name})\n"])


def _draw(title: str, bars: dict[str, list[tuple[str, Verdict]]], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(bars), figsize=(6.5 * len(bars), 3.8), squeeze=False, layout="constrained")
    for axis, (panel, verdicts) in zip(axes[0], bars.items(), strict=True):
        names = [name.removeprefix(LIVE_NAME).lstrip(", ") for name, _ in verdicts][::-1]
        values = [verdict.difference for _, verdict in verdicts][::-1]
        errors = [1.96 * verdict.error for _, verdict in verdicts][::-1]
        axis.barh(names, values, xerr=errors, color="#8d99ae", capsize=2)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel("difference in NDCG@10 (whiskers: 1.96 standard errors)")
        tidy(axis)
    figure.suptitle(f"{title}: live signals less a part")
    return saved(figure, path)
