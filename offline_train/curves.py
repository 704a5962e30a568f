"""The training curves as a picture."""

from __future__ import annotations

from pathlib import Path

from offline_train.finetuning import Finetuned
from offline_train.validation import CUTOFF


def draw_curves(finetuned: Finetuned, path: str | Path) -> Path:
    """Losses, and validation NDCG with the chosen epoch marked, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path = Path(path)
    curve = finetuned.curve
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    trained = curve[1:]
    for name, label in (("video_loss", "videos"), ("comment_loss", "comments"), ("contrast_loss", "id and text")):
        values = [getattr(point, name) for point in trained]
        if any(values):
            left.plot([point.epoch for point in trained], values, label=label)
    left.set(title="training loss", xlabel="epoch")
    for name, label in (("video_ndcg5", "videos"), ("comment_ndcg5", "comments")):
        points = [(point.epoch, getattr(point, name)) for point in curve if getattr(point, name) is not None]
        if points:
            right.plot(*zip(*points, strict=True), label=label)
    right.axvline(finetuned.best_epoch, linestyle=":", color="grey", label="chosen")
    right.set(title=f"validation NDCG@{CUTOFF}", xlabel="epoch", ylim=(0, None))
    for axis in (left, right):
        axis.legend()
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
