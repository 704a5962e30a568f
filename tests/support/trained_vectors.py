"""Vectors like a trained model's: drawn with the means and covariances of one, then scaled to length 1.

`trained_moments.npz` has those of a joint model of HetRec 2011 (5 908 films; the preferences of 2 113 users, each once
in the middle and once at the end of the history), width 64. Lists of neighbours are harder to find among such vectors
than among the model's own, which lie in clusters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_MOMENTS = Path(__file__).with_name("trained_moments.npz")


def videos(count: int, *, seed: int = 0) -> np.ndarray:
    """[count, 64] float32."""
    return _drawn("video", count, seed)


def preferences(count: int, *, seed: int = 1) -> np.ndarray:
    """[count, 64] float32."""
    return _drawn("user", count, seed)


def _drawn(kind: str, count: int, seed: int) -> np.ndarray:
    with np.load(_MOMENTS) as moments:
        mean, covariance = moments[f"{kind}_mean"], moments[f"{kind}_covariance"].astype(np.float64)
    values, directions = np.linalg.eigh(covariance)
    spread = (directions * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    drawn = np.random.default_rng(seed).standard_normal((count, len(mean)), dtype=np.float32) @ spread.T + mean
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
