"""The curves of stage 1 as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offline_train.alignment import Aligned

_SMOOTH = 5


def draw_stage1(aligned: Aligned, path: str | Path) -> Path:
    """Losses of the batches before they were learned from, each beside its chance, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path = Path(path)
    curve = aligned.curve
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    steps = [point.step for point in curve]
    axes[0].plot(range(1, len(aligned.head_curve) + 1), aligned.head_curve)
    axes[0].axhline(0, linestyle=":", color="grey")
    axes[0].set(title="heads alone: L_rec - chance", xlabel="epoch")
    axes[1].plot(steps, [point.lm for point in curve])
    axes[1].set(title="L_lm (nats a token)", xlabel="step")
    for axis, name in ((axes[2], "rec"), (axes[3], "z")):
        values = np.array([getattr(point, name) for point in curve])
        axis.plot(steps, values, alpha=0.3)
        width = min(_SMOOTH, len(values))
        if width:
            smooth = np.convolve(values, np.ones(width) / width, "valid")
            axis.plot(steps[width - 1 :], smooth, label=f"mean of {width}")
        axis.plot(steps, [getattr(point, f"{name}_chance") for point in curve], ":", color="grey", label="chance")
        axis.set(title="L_rec" if name == "rec" else "InfoNCE with z", xlabel="step")
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
