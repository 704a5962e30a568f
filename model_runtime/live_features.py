"""φ: what `f` sees of a candidate (`lsvcr.md` §7), computed by one code for training, evaluation and serving.

Names say all: `recent_0` belongs to the first half-life, `recent_1` to the second, and so on, in both tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

#: log1p(PER_EVENT · count): one event just now is 4, nothing at all 0, and a tenth of an event still 1.8
PER_EVENT = 50.0
DAY_MS = 86_400_000.0
#: the age, in days, of what has neither a creation time nor any event yet
_UNKNOWN_DAYS = 3650.0
#: an int64 `since` beyond this is "never": see `offline_train.log.NEVER`
_NEVER = np.int64(1) << 62

#: features that read a clock or a count; barred where a target comes into being by its own event
TIME_FEATURES = ("recent_", "fresh_", "age", "base", "order")
#: features that are the same for all of a user's candidates
USER_FEATURES = ("history",)
MAX_HALF_LIVES = 6
VIDEO_FEATURES = (
    "sr",
    "known",
    "base",
    "age",
    *(f"recent_{k}" for k in range(MAX_HALF_LIVES)),
    *(f"fresh_{k}" for k in range(MAX_HALF_LIVES)),
    "title_mean",
    "title_last",
    "related",
    "history",
)
COMMENT_FEATURES = (
    "sr",
    "base",
    "age",
    *(f"recent_{k}" for k in range(MAX_HALF_LIVES)),
    *(f"fresh_{k}" for k in range(MAX_HALF_LIVES)),
    "order",
    "profile_mean",
    "profile_max",
    "history",
)


def is_time_feature(name: str) -> bool:
    """Whether a feature would give away a target that its own event creates."""
    return name.startswith(TIME_FEATURES)


def log_counts(counts: NDArray[np.floating]) -> NDArray[np.float32]:
    """Decayed counts on a scale on which a tenth is not nothing."""
    return np.log1p(PER_EVENT * counts).astype(np.float32)


def days_since(since_ms: NDArray[np.int64], now_ms: int) -> NDArray[np.float32]:
    """Age in days; 0 for what is to come, 10 years for what is without any time."""
    days = (now_ms - since_ms.astype(np.float64)) / DAY_MS
    return np.where(since_ms > _NEVER, _UNKNOWN_DAYS, np.maximum(days, 0.0)).astype(np.float32)


def freshness(days: NDArray[np.float32], half_lives_ms: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float32]:
    """2^(-age / half-life) per half-life, [n, K]: 1 for what is just there."""
    per_day = DAY_MS / np.asarray(half_lives_ms, np.float64)
    return np.exp2(-days[:, None] * per_day).astype(np.float32)


def item_columns(
    counts: NDArray[np.floating],
    since_ms: NDArray[np.int64],
    base: NDArray[np.integer],
    now_ms: int,
    half_lives_ms: Sequence[float] | NDArray[np.float64],
) -> dict[str, NDArray[np.float32]]:
    """The features that don't depend on the user, each [n].

    Args:
        counts: [n, K], decayed engagements at `now_ms`.
        since_ms: [n], Unix ms of creation or first appearance.
        base: [n], engagements in the training period.
    """
    days = days_since(since_ms, now_ms)
    recent, fresh = log_counts(counts), freshness(days, half_lives_ms)
    columns = {"age": np.log1p(days), "base": np.log1p(base).astype(np.float32)}
    for k in range(recent.shape[1]):
        columns[f"recent_{k}"] = recent[:, k]
        columns[f"fresh_{k}"] = fresh[:, k]
    return columns


def order_by_age(since_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """Where each comment of one video stands by age, [n]: 0 the oldest, 1 the newest; ties share a place."""
    if len(since_ms) < 2:
        return np.zeros(len(since_ms), np.float32)
    return (np.searchsorted(np.sort(since_ms), since_ms) / (len(since_ms) - 1)).astype(np.float32)


def similarity(vectors: NDArray[np.float32], profile: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dot products of rows [n, d] with vectors [h, d], [n, h]; cosines if all have length 1."""
    return np.asarray(vectors @ profile.T, np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; zero rows stay zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.asarray(vectors * np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)[:, None])


def mean_direction(profiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each user's vectors [B, h, d] the mean, scaled to length 1, [B, d]; zeros don't count, and give zeros."""
    return unit(np.asarray(profiles.sum(axis=1), np.float32))


def video_columns(
    items: Mapping[str, NDArray[np.float32]],
    known: NDArray[np.bool_],
    sr: NDArray[np.float32],
    titles: NDArray[np.float32],
    user: NDArray[np.integer],
    means: NDArray[np.float32],
    lasts: NDArray[np.float32],
    related: NDArray[np.float32],
    sizes: NDArray[np.integer],
) -> dict[str, NDArray[np.float32]]:
    """The features of n pairs of a user and a video, each [n].

    Args:
        items: `item_columns` of the videos.
        known: [n], training knew the video.
        sr: [n], its SR score; 0 for users without history.
        titles: [n, d], unit title vectors.
        user: [n], whose pair it is: a row of the three below.
        means, lasts: [B, d], `mean_direction` of the titles of the user's video history, and the last of them.
        related: [n], how much the video goes together with the user's last ones (`model_runtime.related`).
        sizes: [B], how many videos and comments are in the user's histories.
    """
    return {
        **items,
        "sr": sr,
        "known": known.astype(np.float32),
        "title_mean": np.einsum("nd,nd->n", titles, means[user]),
        "title_last": np.einsum("nd,nd->n", titles, lasts[user]),
        "related": np.sqrt(related),
        "history": np.log1p(sizes)[user].astype(np.float32),
    }


def comment_columns(
    items: Mapping[str, NDArray[np.float32]],
    since_ms: NDArray[np.int64],
    sr: NDArray[np.float32],
    texts: NDArray[np.float32],
    profile: NDArray[np.float32],
    size: int,
) -> dict[str, NDArray[np.float32]]:
    """The features of the n comments under one video for one user, each [n].

    Args:
        items: `item_columns` of the comments; nothing where no feature may read a clock or a count.
        since_ms: [n], Unix ms of creation or first appearance.
        sr: [n], SR scores; 0 for users without history.
        texts: [n, d], unit vectors.
        profile: [h, d], unit vectors of the comments in the user's history.
        size: how many videos and comments are in the user's histories.
    """
    nothing = np.zeros(len(texts), np.float32)
    return {
        **items,
        "sr": sr,
        "profile_mean": texts @ mean_direction(profile[None])[0] if len(profile) else nothing,
        "profile_max": similarity(texts, profile).max(axis=1, initial=0.0) if len(profile) else nothing,
        "history": np.full(len(texts), np.log1p(size), np.float32),
        "order": order_by_age(since_ms),
    }


def stacked(names: Sequence[str], columns: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Columns by name as one array [..., F]."""
    return np.stack([columns[name] for name in names], axis=-1)
