"""Who and what is on the simulated platform: users, videos and comments as columns, with what they are truly like.

All times are ms since the start of the simulation (negative: before it). Ids on the wire are a letter and the row:
`u17`, `v230`, `c9`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from offline_train.sources.texts import comments as comment_texts
from offline_train.sources.texts import titles
from offline_train.sources.vocabulary import TONES

DAY_MS = 24 * 3600 * 1000
BACKLOG_DAYS = 30  #: the first videos are this old when the simulation starts
STYLES = 4  #: dimensions of taste that no text shows, only who watches what
_BACKLOG_SHARE = 0.4  # of the videos; the others appear during the simulation
_LATE_SHARE = 0.2  # of the users; they join during the first 80 % of it
_VIDEO_ZIPF = 0.6


@dataclass
class Users:
    """U users. `taste`, `drift_a`, `drift_b` are logits of interest in the topics (see `preferences.interest`)."""

    taste: np.ndarray  #: float32 [U, topics], what stays
    drift_a: np.ndarray  #: float32 [U, topics], what comes and goes
    drift_b: np.ndarray  #: float32 [U, topics], a quarter of a period later
    style: np.ndarray  #: float32 [U, STYLES]
    tone: np.ndarray  #: float32 [U, tones], liking of each tone of comments
    activity: np.ndarray  #: float32 [U], log of how often the user comes
    hour: np.ndarray  #: float32 [U], the hour of the day at which the user comes most
    joined_ms: np.ndarray  #: int64 [U]


@dataclass
class Videos:
    """V videos."""

    topic: np.ndarray  #: int16 [V]
    other: np.ndarray  #: int16 [V], the second topic
    share: np.ndarray  #: float32 [V], of the main topic; the rest is the second's
    style: np.ndarray  #: float32 [V, STYLES]
    quality: np.ndarray  #: float32 [V]
    popularity: np.ndarray  #: float32 [V], how much the platform shows it (Zipf), before freshness
    duration_ms: np.ndarray  #: int64 [V]
    author: np.ndarray  #: int32 [V]
    published_ms: np.ndarray  #: int64 [V]


@dataclass
class Comments:
    """C comments."""

    video: np.ndarray  #: int32 [C]
    topic: np.ndarray  #: int16 [C]
    tone: np.ndarray  #: int8 [C]
    quality: np.ndarray  #: float32 [C]
    author: np.ndarray  #: int32 [C], the user who wrote it during the simulation, or -1
    likes: np.ndarray  #: int32 [C], likes from before the simulation, -1 if it is younger
    written_ms: np.ndarray  #: int64 [C]


_OFFSET_MS = (BACKLOG_DAYS + 1) * DAY_MS  # makes every comment's time positive
_TIME_BITS = 41  # enough for 69 years of ms


class CommentIndex:
    """The comments of each video in the order of writing."""

    def __init__(self, comments: Comments) -> None:
        key = (comments.video.astype(np.int64) << _TIME_BITS) + comments.written_ms + _OFFSET_MS
        self.order = np.argsort(key, kind="stable")
        self._key = key[self.order]

    def readable(self, video: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each video [n] and time: where its comments start in `order`, and how many were written before."""
        base = video.astype(np.int64) << _TIME_BITS
        start = np.searchsorted(self._key, base)
        return start, np.searchsorted(self._key, base + now + _OFFSET_MS) - start


Columns = TypeVar("Columns", Users, Videos, Comments)


def join(first: Columns, second: Columns) -> Columns:
    """Rows of `first`, then rows of `second`."""
    return type(first)(
        *(np.concatenate((getattr(first, column.name), getattr(second, column.name))) for column in fields(first))
    )


def make_users(rng: np.random.Generator, count: int, topics: int, days: int) -> Users:
    """`count` users; a fifth of them joins late."""
    late = rng.random(count) < _LATE_SHARE
    return Users(
        taste=_normal(rng, (count, topics)),
        drift_a=_normal(rng, (count, topics)),
        drift_b=_normal(rng, (count, topics)),
        style=_normal(rng, (count, STYLES)),
        tone=_normal(rng, (count, len(TONES))),
        activity=_normal(rng, (count,)) * np.float32(0.8),
        hour=(rng.normal(19, 4, count) % 24).astype(np.float32),
        joined_ms=np.where(late, rng.random(count) * 0.8 * days * DAY_MS, -DAY_MS).astype(np.int64),
    )


def make_videos(
    rng: np.random.Generator, count: int, topics: int, published_ms: tuple[int, int], of: int = 0
) -> tuple[Videos, list[str]]:
    """`count` videos in the order of publication, and their titles.

    `published_ms`: the span in which they appear. Without `of`, they are the first videos there are, and two in five
    of them older than that; else they are a sample of `of` videos, as popular as those.
    """
    start, end = published_ms
    at = start + rng.random(count) * (end - start)
    if not of:
        old = np.arange(count) < round(_BACKLOG_SHARE * count)
        at = np.where(old, -rng.random(count) * BACKLOG_DAYS * DAY_MS, at)
    at = np.sort(at.astype(np.int64))
    topic_popularity = np.arange(1, topics + 1) ** -0.5
    authors = max(count // 20, 1)
    author = rng.integers(authors, size=count)
    author_topic = rng.choice(topics, authors, p=topic_popularity / topic_popularity.sum())
    topic = np.where(rng.random(count) < 0.8, author_topic[author], rng.integers(topics, size=count)).astype(np.int16)
    other = ((topic + rng.integers(1, topics, count)) % topics).astype(np.int16)
    share = np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.55, 0.9, count)).astype(np.float32)
    videos = Videos(
        topic=topic,
        other=other,
        share=share,
        style=_normal(rng, (count, STYLES)),
        quality=_normal(rng, (count,)),
        popularity=(rng.permutation(max(of, count))[:count] + 1.0).astype(np.float32) ** np.float32(-_VIDEO_ZIPF),
        duration_ms=np.clip(np.exp(rng.normal(np.log(30_000), 0.7, count)), 6_000, 600_000).astype(np.int64),
        author=author.astype(np.int32),
        published_ms=at,
    )
    return videos, titles(rng, topic, other, share)


def make_comments(
    rng: np.random.Generator, count: int, videos: Videos, first_video: int, topics: int, end_ms: int
) -> tuple[Comments, list[str]]:
    """`count` comments under `videos` (rows from `first_video` on), in the order of writing, and their texts.

    The more popular a video, the more comments; most come in its first days, none after `end_ms`.
    """
    chance = videos.popularity.astype(float) ** 0.7
    under = rng.choice(len(chance), count, p=chance / chance.sum())
    published = videos.published_ms[under]
    left = np.maximum(end_ms - published, 1) / (4.0 * DAY_MS)  # in mean delays
    delay = -np.log1p(-rng.random(count) * -np.expm1(-left)) * 4.0 * DAY_MS
    written = published + delay.astype(np.int64)
    order = np.argsort(written, kind="stable")
    under, written = under[order], written[order]
    topic = topics_of(rng, videos, under, topics)
    tone = rng.integers(len(TONES), size=count).astype(np.int8)
    quality = _normal(rng, (count,))
    likes = rng.poisson(np.exp(1.0 + quality) * np.minimum(-written / (4.0 * DAY_MS), 1.0).clip(0))
    comments = Comments(
        video=(under + first_video).astype(np.int32),
        topic=topic,
        tone=tone,
        quality=quality,
        author=np.full(count, -1, np.int32),
        likes=np.where(written < 0, likes, -1).astype(np.int32),
        written_ms=written,
    )
    return comments, comment_texts(rng, topic, tone)


def topics_of(rng: np.random.Generator, videos: Videos, under: np.ndarray, topics: int) -> np.ndarray:
    """What comments under the videos `under` are about: one of the video's two topics, or anything. int16 [n]."""
    kind = rng.random(len(under))
    anything = rng.integers(topics, size=len(under))
    about = np.where(kind < 0.85, videos.other[under], anything)
    return np.where(kind < 0.6, videos.topic[under], about).astype(np.int16)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)
