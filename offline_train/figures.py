"""What the pictures of the results have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def tidy(axis: Any, size: int = 8) -> None:
    """Small labels, and no frame."""
    axis.tick_params(labelsize=size)
    axis.spines[["top", "right"]].set_visible(False)


def saved(figure: Any, path: Path) -> Path:
    """Write a matplotlib figure as PNG, and close it; the same figures give the same bytes."""
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120, metadata={"Software": None})  # not the writer's name and version
    plt.close(figure)
    return path
