"""The simulated platform in motion: who comes when, watches what, and does what with the comments.

Time goes in slots of two hours. In a slot each user comes at most once; all sessions of a slot take their j-th step
together, as columns. So memory grows with the population, not with the length of the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_train.sources import preferences
from offline_train.sources.population import DAY_MS, CommentIndex, Comments, Users, Videos, join, topics_of
from offline_train.sources.preferences import SHOWN, SLOT_MS, SLOTS_PER_DAY
from offline_train.sources.texts import comments as comment_texts
from streams.events import CommentAction, VideoAction

#: bits of `Happenings.actions`
VIDEO_ACTIONS: tuple[VideoAction, ...] = ("like", "follow", "forward", "collect", "comment", "hate")
_LIKE, _FOLLOW, _FORWARD, _COLLECT, _COMMENT, _HATE = (1 << bit for bit in range(len(VIDEO_ACTIONS)))
#: values of `Happenings.actions` where there is a comment
COMMENT_ACTIONS: tuple[CommentAction, ...] = ("view", "expand", "like", "reply", "write")
_VIEW, _EXPAND, _LIKE_COMMENT, _REPLY, _WRITE = range(len(COMMENT_ACTIONS))

MEAN_VIEWS = 8  #: videos watched in a session
_MAX_VIEWS = 40
_READ = 8  #: comments that a user who opens them reads before choosing one
_MAX_COMMENTS = 3  #: comments that a user does something with, per video
_LONG_VIEW_MS = 18_000
#: share of a day's sessions that come in each slot of two hours, from midnight
_LOAD = np.array([4, 2, 1, 2, 5, 7, 9, 9, 9, 13, 19, 12], dtype=float)
LOAD = _LOAD / _LOAD.sum()


@dataclass
class Happenings:
    """Events as columns [n]. `comment` is -1 for a view of a video; the others are interactions with that comment."""

    ts_ms: np.ndarray  #: int64, since the start of the simulation
    user: np.ndarray  #: int32
    video: np.ndarray  #: int32
    comment: np.ndarray  #: int32
    span_ms: np.ndarray  #: int32, watched, or dwelt on the comment
    actions: np.ndarray  #: int16, bits of VIDEO_ACTIONS, or a place in COMMENT_ACTIONS

    def __len__(self) -> int:
        return len(self.ts_ms)

    @staticmethod
    def none() -> Happenings:
        """No events."""
        return Happenings(*(np.empty(0, kind) for kind in (np.int64, *(np.int32,) * 4, np.int16)))

    def take(self, rows: np.ndarray | slice) -> Happenings:
        """Some of the rows."""
        return Happenings(*(column[rows] for column in self.columns()))

    def then(self, other: Happenings) -> Happenings:
        """These rows, then the other's."""
        return Happenings(*map(np.concatenate, zip(self.columns(), other.columns(), strict=True)))

    def columns(self) -> tuple[np.ndarray, ...]:
        """All columns, in the order of the fields."""
        return self.ts_ms, self.user, self.video, self.comment, self.span_ms, self.actions


class Platform:
    """Users, videos and comments, and what moves: who has seen what, who is busy until when, what has been written."""

    def __init__(self, seed: int, topics: int, users: Users, videos: Videos, comments: Comments) -> None:
        self.seed, self.topics = seed, topics
        self.users, self.videos, self.comments = users, videos, comments
        self.written_texts: list[str] = []  #: of the comments written since the caller last emptied it, in row order
        self._written: list[Comments] = []
        self._busy_ms = np.full(len(users.activity), -DAY_MS, np.int64)
        self._seen = np.zeros((len(users.activity), (len(videos.topic) + 7) // 8), np.uint8)
        self._index = CommentIndex(comments)

    def publish(self, videos: Videos, comments: Comments) -> None:
        """More videos, with comments under them, at the end of the columns. Between two slots only."""
        self.settle()
        self.videos, self.comments = join(self.videos, videos), join(self.comments, comments)
        self._index = CommentIndex(self.comments)
        wanted = (len(self.videos.topic) + 7) // 8
        if wanted > self._seen.shape[1]:
            self._seen = np.pad(self._seen, ((0, 0), (0, wanted + wanted // 4 - self._seen.shape[1])))

    def settle(self) -> None:
        """Let what was written be found by readers."""
        if self._written:
            for written in self._written:
                self.comments = join(self.comments, written)
            self._written.clear()
            self._index = CommentIndex(self.comments)

    def slot(self, number: int, sessions: int) -> Happenings:
        """All events of the about `sessions` sessions that begin in a slot, in time order (they may end after it)."""
        rng = np.random.default_rng([self.seed, 2, number])
        if number % SLOTS_PER_DAY == 0:
            self.settle()
        who = self._visitors(rng, number, sessions)
        shown = np.cumsum(preferences.exposure(self.videos, number))
        if not len(who) or not shown[-1]:
            return Happenings.none()
        share = preferences.interest(self.users, who, number / SLOTS_PER_DAY)
        moods = preferences.mood(self.seed, who, number, share)
        length = np.minimum(rng.geometric(1 / MEAN_VIEWS, len(who)), _MAX_VIEWS)
        now = np.maximum(number * SLOT_MS + rng.integers(SLOT_MS, size=len(who)), self._busy_ms[who])
        parts: list[Happenings] = []
        for step in range(int(length.max())):
            on = np.flatnonzero(length > step)
            video, utility = self._choose(rng, shown, who[on], share[on], moods[on])
            found = video >= 0
            length[on[~found]] = 0  # nothing new to see: the session is over
            on, video, utility = on[found], video[found], utility[found]
            if len(on):
                views = self._watch(rng, now, on, who[on], video, utility)
                parts.append(views)
                parts += self._discuss(rng, now, on, views, share)
        self._busy_ms[who] = now + 60_000
        columns = [np.concatenate(column) for column in zip(*(part.columns() for part in parts), strict=True)]
        return Happenings(*columns).take(np.argsort(columns[0], kind="stable"))

    def _visitors(self, rng: np.random.Generator, number: int, sessions: int) -> np.ndarray:
        """Users who come in the slot, by activity and time of day, without replacement."""
        users = self.users
        hour = (number % SLOTS_PER_DAY) * 24 / SLOTS_PER_DAY + 1
        wish = users.activity + 1.5 * np.cos((hour - users.hour) * (2 * np.pi / 24)) + rng.gumbel(size=len(users.hour))
        wish[(users.joined_ms > number * SLOT_MS) | (self._busy_ms >= (number + 1) * SLOT_MS)] = -np.inf
        count = min(sessions, int(np.isfinite(wish).sum()))
        if count == 0:
            return np.empty(0, np.int64)
        chosen: np.ndarray = np.sort(np.argpartition(-wish, count - 1)[:count])
        return chosen

    def _choose(
        self, rng: np.random.Generator, shown: np.ndarray, who: np.ndarray, share: np.ndarray, moods: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next video of each user (-1: none is new) and its utility, [n] each."""
        candidates = np.searchsorted(shown, rng.random((len(who), SHOWN)) * shown[-1], side="right")
        candidates = np.minimum(candidates, len(shown) - 1)
        utility = preferences.video_utility(share, moods, self.users.style[who], self.videos, candidates)
        seen = (self._seen[who[:, None], candidates >> 3] >> (candidates & 7).astype(np.uint8)) & 1
        wish = np.where(seen == 1, -np.inf, utility + rng.gumbel(size=utility.shape))
        best = np.argmax(wish, axis=1)
        row = np.arange(len(who))
        found = np.isfinite(wish[row, best])
        video = np.where(found, candidates[row, best], -1)
        self._seen[who[found], video[found] >> 3] |= np.uint8(1) << (video[found] & 7).astype(np.uint8)
        return video, utility[row, best]

    def _watch(
        self,
        rng: np.random.Generator,
        now: np.ndarray,
        on: np.ndarray,
        who: np.ndarray,
        video: np.ndarray,
        utility: np.ndarray,
    ) -> Happenings:
        """Views by the sessions `on`, timed when the watching ends; moves their clocks `now` there."""
        n = len(on)
        duration = self.videos.duration_ms[video]
        enough = np.minimum(duration, _LONG_VIEW_MS)
        engaged = rng.random(n) < preferences.engagement(utility)
        watched = np.where(
            engaged,
            enough + (1.1 * duration - enough) * rng.random(n),
            np.minimum(enough - 1, enough * rng.beta(1.5, 3.0, n)),
        ).astype(np.int32)
        liking = preferences.engagement(utility - 2.5)
        actions = np.where(engaged & (rng.random(n) < 0.5 * liking), _LIKE, 0)
        for bit, chance in ((_FOLLOW, 0.05), (_FORWARD, 0.05), (_COLLECT, 0.10)):
            actions |= np.where(engaged & (rng.random(n) < chance * liking), bit, 0)
        hates = ~engaged & (rng.random(n) < 0.03 * (1 - preferences.engagement(utility)))
        actions = np.where(hates, _HATE, actions)
        now[on] += 500 + rng.integers(2_000, size=n) + watched
        none = np.full(n, -1, np.int32)
        who, video = who.astype(np.int32), video.astype(np.int32)
        return Happenings(now[on], who, video, none, watched, actions.astype(np.int16))

    def _discuss(
        self, rng: np.random.Generator, now: np.ndarray, on: np.ndarray, views: Happenings, share: np.ndarray
    ) -> list[Happenings]:
        """What the sessions `on` do with the comments under the video just viewed; moves their clocks."""
        engaged = views.span_ms >= np.minimum(self.videos.duration_ms[views.video], _LONG_VIEW_MS)
        opens = np.flatnonzero(rng.random(len(on)) < np.where(engaged, 0.4, 0.04))
        want = 1 + (rng.random(len(opens)) < 0.35) + (rng.random(len(opens)) < 0.2)
        done: list[Happenings] = []
        earlier = np.full((len(on), _MAX_COMMENTS), -1)
        for turn in range(_MAX_COMMENTS):
            at = opens[want > turn]
            video = views.video[at]
            start, count = self._index.readable(video, now[on[at]])
            at, video, start, count = (column[count > 0] for column in (at, video, start, count))
            if not len(at):
                break
            n = len(at)
            reads = self._index.order[start[:, None] + (rng.random((n, _READ)) * count[:, None]).astype(np.int64)]
            who = views.user[at]
            utility = preferences.comment_utility(share[on[at]], self.users.tone[who], self.comments, reads)
            wish = utility + rng.gumbel(size=utility.shape)
            wish[(reads[:, :, None] == earlier[at][:, None, :]).any(axis=2)] = -np.inf
            best = np.argmax(wish, axis=1)
            row = np.arange(n)
            comment = reads[row, best]
            new = np.isfinite(wish[row, best])
            earlier[at, turn] = comment
            chance = preferences.answer(utility[row, best])
            kind, other = rng.random(n), rng.random(n)
            passive = np.where(other < 0.4, _EXPAND, _VIEW)
            action = np.where(kind < chance, np.where(other < 0.8, _LIKE_COMMENT, _REPLY), passive)
            dwell = (800 + rng.exponential(2_500, n)).astype(np.int32)
            now[on[at]] += dwell + 200
            one = Happenings(now[on[at]], who, video, comment.astype(np.int32), dwell, action.astype(np.int16))
            done.append(one.take(new))
        writes = np.flatnonzero(engaged & (rng.random(len(on)) < 0.03))
        if len(writes):
            views.actions[writes] |= _COMMENT
            done.append(self._write(rng, now, on[writes], views.take(writes), share[on[writes]]))
        return done

    def _write(
        self, rng: np.random.Generator, now: np.ndarray, on: np.ndarray, views: Happenings, share: np.ndarray
    ) -> Happenings:
        """New comments: about what the video is about, or what the writer likes; in a tone that the writer likes."""
        n = len(on)
        own = (rng.random((n, 1)) * share.sum(axis=1, keepdims=True) > np.cumsum(share, axis=1)).sum(axis=1)
        topic = topics_of(rng, self.videos, views.video, self.topics)
        topic = np.where(rng.random(n) < 0.7, topic, np.minimum(own, self.topics - 1)).astype(np.int16)
        tone = np.argmax(self.users.tone[views.user] + rng.gumbel(size=(n, self.users.tone.shape[1])), axis=1)
        took = (4_000 + rng.exponential(8_000, n)).astype(np.int32)
        now[on] += took
        first = len(self.comments.video) + sum(len(written.video) for written in self._written)
        self._written.append(
            Comments(
                video=views.video,
                topic=topic,
                tone=tone.astype(np.int8),
                quality=rng.standard_normal(n, dtype=np.float32),
                author=views.user,
                likes=np.full(n, -1, np.int32),
                written_ms=now[on],
            )
        )
        self.written_texts += comment_texts(rng, topic, tone)
        comment = np.arange(first, first + n, dtype=np.int32)
        return Happenings(now[on], views.user, views.video, comment, took, np.full(n, _WRITE, np.int16))
