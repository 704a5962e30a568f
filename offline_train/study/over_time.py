"""Does a model stay fresh? NDCG@10 by tenth of the test period, weights standing still, histories going on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline_train.comparison import Row
from offline_train.evaluation import Result
from offline_train.figures import saved
from offline_train.metrics import per_target

TENTHS = 10
DAY_MS = 86_400_000


def tenth_of(when_ms: NDArray[np.int64], first_ms: int, last_ms: int) -> NDArray[np.int64]:
    """Which tenth of the period each moment lies in, 0 to 9."""
    share = (when_ms - first_ms) / max(1, last_ms - first_ms)
    return np.clip((share * TENTHS).astype(np.int64), 0, TENTHS - 1)


def by_tenth(results: Sequence[Result], first_ms: int, last_ms: int) -> NDArray[np.float64]:
    """NDCG@10 of each of one model's seeds, [seeds, 10]; NaN where a tenth has no target."""
    table = np.full((len(results), TENTHS), np.nan)
    for i, result in enumerate(results):
        place = tenth_of(result.when_ms, first_ms, last_ms)
        value = per_target(result.ranks, "ndcg", 10)
        for tenth in np.unique(place):
            table[i, tenth] = value[place == tenth].mean()
    return table


def rows(data: str, results: Sequence[Result], first_ms: int, last_ms: int) -> list[Row]:
    """Rows `ndcg@10 tenth 1` to `ndcg@10 tenth 10` of one model's results; tenths without a target are left out."""
    table = by_tenth(results, first_ms, last_ms)
    one = results[0]
    return [
        Row(
            data,
            one.task,
            one.protocol,
            one.split,
            one.model,
            f"ndcg@10 tenth {tenth + 1}",
            mean=float(values.mean()),
            std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            seeds=len(values),
        )
        for tenth, values in enumerate(table.T)
        if not np.isnan(values).any()
    ]


def draw(
    title: str, panels: dict[str, dict[str, list[Result]]], first_ms: int, last_ms: int, own: str, path: Path
) -> Path:
    """A panel per task: NDCG@10 against days since the test began, one line per model, own models in red."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    days = (last_ms - first_ms) / DAY_MS / TENTHS * (np.arange(TENTHS) + 0.5)
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (panel, models) in zip(axes[0], panels.items(), strict=True):
        reds, greys = iter(("#c8553d", "#e39b86")), iter(("#2b2d42", "#6c7a93", "#a3b0c2"))
        for model, results in sorted(models.items(), key=lambda item: not item[0].startswith(own)):
            mean = by_tenth(results, first_ms, last_ms).mean(axis=0)
            axis.plot(days, mean, marker="o", ms=3, label=model, color=next(reds if model.startswith(own) else greys))
        counts = np.bincount(tenth_of(next(iter(models.values()))[0].when_ms, first_ms, last_ms), minlength=TENTHS)
        axis.set_title(f"{panel} ({counts.min():,} to {counts.max():,} targets a point)", fontsize=10)
        axis.set_xlabel("days since the test began")
        axis.set_ylabel("NDCG@10")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return saved(figure, path)
