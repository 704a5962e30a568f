"""What simulated users truly want, at any time: the one truth that both the simulator and its oracle compute with.

A user's interest in the topics is a softmax over logits that stand (taste) and turn slowly (drift); within two hours it
has a mood, one topic that the user is after now. A video's utility adds up topic, mood, style and quality. What is
watched next is the best, by utility and chance, of a few videos that the platform shows by popularity and freshness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_train.sources.population import DAY_MS, Comments, Users, Videos

SLOT_MS = 2 * 3600 * 1000  #: mood and what the platform shows change from slot to slot
SLOTS_PER_DAY = DAY_MS // SLOT_MS
SHOWN = 24  #: videos that the platform shows for each one watched


@dataclass(frozen=True)
class Weights:
    """How much each part counts. The defaults leave an oracle far above popularity and far below certainty."""

    sharpness: float = 2.0  #: of the interest in topics
    drift: float = 0.7  #: of what comes and goes, against 1 for what stays
    period_days: float = 60.0  #: in which drift comes back
    topic: float = 8.0
    mood: float = 1.2
    style: float = 0.5
    quality: float = 0.4
    fresh_days: float = 3.0  #: in which what the platform shows of a new video falls to 1 / e ...
    fresh_floor: float = 0.1  #: ... towards this share
    engage_slope: float = 1.3
    engage_bias: float = 2.0
    comment_topic: float = 3.0
    comment_tone: float = 1.0
    comment_quality: float = 0.5


WEIGHTS = Weights()


def interest(users: Users, rows: np.ndarray, day: np.ndarray | float, weights: Weights = WEIGHTS) -> np.ndarray:
    """Interest of users (rows [n]) in the topics, which sums to 1, at `day` (since the start). [n, topics]."""
    turn = np.broadcast_to(2 * np.pi * np.asarray(day, np.float64) / weights.period_days, rows.shape)[:, None]
    drift = np.cos(turn) * users.drift_a[rows] + np.sin(turn) * users.drift_b[rows]
    logits = weights.sharpness * (users.taste[rows] + weights.drift * drift)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    share: np.ndarray = (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)
    return share


def mood(seed: int, rows: np.ndarray, slot: int, share: np.ndarray) -> np.ndarray:
    """The topic that each user is after in a slot: drawn from the interest by a hash, so that it needs no memory."""
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(((seed * 1_000_003 + slot + (1 << 20)) * 0xD1B54A32D192ED03) % (1 << 64))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    uniform = (x >> np.uint64(11)).astype(np.float64) / (1 << 53)
    cumulative = np.cumsum(share, axis=1)
    topic: np.ndarray = (uniform[:, None] * cumulative[:, -1:] > cumulative).sum(axis=1)
    return topic


def video_utility(
    share: np.ndarray,
    moods: np.ndarray,
    style: np.ndarray,
    videos: Videos,
    candidates: np.ndarray,
    weights: Weights = WEIGHTS,
) -> np.ndarray:
    """Utility of videos: `candidates` [n, k] (rows) to users with interest `share` [n, topics]. float32 [n, k]."""
    row = np.arange(len(share))[:, None]
    topic, other, part = videos.topic[candidates], videos.other[candidates], videos.share[candidates]
    mooded = (topic == moods[:, None]) * part + (other == moods[:, None]) * (1 - part)
    utility: np.ndarray = weights.topic * (share[row, topic] * part + share[row, other] * (1 - part))
    utility = utility + weights.mood * mooded + weights.quality * videos.quality[candidates]
    utility += weights.style * np.einsum("nks,ns->nk", videos.style[candidates], style)
    return utility.astype(np.float32)


def engagement(utility: np.ndarray, weights: Weights = WEIGHTS) -> np.ndarray:
    """Chance that a video of this utility, once chosen, is watched long enough to be an engagement."""
    chance: np.ndarray = 1 / (1 + np.exp(-weights.engage_slope * (utility - weights.engage_bias)))
    return chance


def exposure(videos: Videos, slot: int, weights: Weights = WEIGHTS) -> np.ndarray:
    """How much the platform shows each video in a slot; 0 until it is published. float64 [V]."""
    age = (slot * SLOT_MS - videos.published_ms) / DAY_MS
    fresh = weights.fresh_floor + np.exp(-np.maximum(age, 0) / weights.fresh_days)
    shown: np.ndarray = np.where(age >= 0, videos.popularity * fresh, 0.0)
    return shown


def comment_utility(
    share: np.ndarray, tone: np.ndarray, comments: Comments, candidates: np.ndarray, weights: Weights = WEIGHTS
) -> np.ndarray:
    """Utility of comments [n, k] (rows) to users with interest `share` [n, topics] and liking of tones [n, tones]."""
    row = np.arange(len(share))[:, None]
    utility: np.ndarray = weights.comment_topic * share[row, comments.topic[candidates]]
    utility = utility + weights.comment_tone * tone[row, comments.tone[candidates]]
    utility += weights.comment_quality * comments.quality[candidates]
    return utility.astype(np.float32)


def answer(utility: np.ndarray) -> np.ndarray:
    """Chance that a comment of this utility, once read, is liked or answered."""
    chance: np.ndarray = 1 / (1 + np.exp(1.0 - utility))
    return chance
