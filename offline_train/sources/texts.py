"""Titles and comments of simulated videos: words drawn from the vocabulary according to what the thing is about."""

from __future__ import annotations

import numpy as np

from offline_train.sources.vocabulary import FILLERS, TITLE_PATTERNS, TONES, TOPICS

TITLE_WORDS = 4
COMMENT_WORDS = (4, 10)  #: shortest and longest comment
_OFF_TOPIC = 0.15  # share of a title's words that are fillers
_TONE_SHARE, _TOPIC_SHARE = 0.4, 0.35  # of a comment's words; the rest are fillers


def zipf_cumulative(size: int, exponent: float = 1.0) -> np.ndarray:
    """Cumulative probabilities of ranks 1..size, the r-th in proportion to r ** -exponent."""
    weights = np.cumsum(np.arange(1, size + 1, dtype=float) ** -exponent)
    cumulative: np.ndarray = weights / weights[-1]
    return cumulative


_GROUPS = [*TOPICS.values(), *TONES.values(), FILLERS]
_WORDS = np.array([word for group in _GROUPS for word in group], dtype=object)
# Cumulative Zipf probabilities of all groups in one ascending array: group g covers the values from g to g + 1.
_CUMULATIVE = np.concatenate([g + zipf_cumulative(len(group)) for g, group in enumerate(_GROUPS)])
_TONE_GROUP, _FILLER_GROUP = len(TOPICS), len(_GROUPS) - 1


def titles(rng: np.random.Generator, topic: np.ndarray, other: np.ndarray, share: np.ndarray) -> list[str]:
    """A title for each video; `share` of its topical words are from `topic`, the rest from `other` (all [n])."""
    size = (len(topic), TITLE_WORDS)
    about = np.where(rng.random(size) < share[:, None], topic[:, None], other[:, None])
    words = _draw(rng, np.where(rng.random(size) < _OFF_TOPIC, _FILLER_GROUP, about))
    patterns = rng.integers(len(TITLE_PATTERNS), size=len(topic))
    return [
        _capital(TITLE_PATTERNS[pattern].format(*row))
        for pattern, row in zip(patterns.tolist(), words.tolist(), strict=True)
    ]


def comments(rng: np.random.Generator, topic: np.ndarray, tone: np.ndarray) -> list[str]:
    """A text for each comment, of words of its topic, words of its tone, and fillers (all [n])."""
    size = (len(topic), COMMENT_WORDS[1])
    kind = rng.random(size)
    group = np.where(kind < _TONE_SHARE + _TOPIC_SHARE, topic[:, None], _FILLER_GROUP)
    words = _draw(rng, np.where(kind < _TONE_SHARE, _TONE_GROUP + tone[:, None], group))
    lengths = rng.integers(COMMENT_WORDS[0], COMMENT_WORDS[1] + 1, len(topic))
    return [_capital(" ".join(row[:n])) for row, n in zip(words.tolist(), lengths.tolist(), strict=True)]


def _draw(rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
    """One word of each given group, Zipf distributed; shape of `group`."""
    drawn: np.ndarray = _WORDS[np.searchsorted(_CUMULATIVE, group + rng.random(group.shape), side="right")]
    return drawn


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
