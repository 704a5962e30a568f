"""A user's state, as a pure core: `apply(state, event, config) -> state`. No Faust, no clock, no I/O.

The worker folds the stream with it and the trainer folds the log with it, so both see the same user.

The laws (each one a property test):

* idempotent: applying an event again changes nothing, also after it has left its window;
* order-tolerant: events take their place by (`ts_ms`, digest of the event id), so any arrival order of events that are
  newer than the low watermark gives the same state;
* bounded: a window grows to `window` entries, then the `drop` oldest go at once and the low watermark moves to the
  newest of those. (Dropping in blocks keeps positions stable between drops, which is what lets the encoder work
  incrementally.) The seen and the hated videos are bounded too;
* streamed equals batch.

Why the law of order holds with drops: an event not newer than the low watermark is refused, so everything dropped is
older than everything kept or yet to come. However the rest arrives, the k-th drop takes the same block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from functools import partial
from hashlib import blake2b

import msgspec
from msgspec import Struct

from model_runtime.ids import video_digest
from streams.events import CommentInteraction, VideoView
from streams.topics import EVENT_TOPICS


class HistoryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What counts, and how much is kept. A bundle carries the configuration it was trained with.

    The defaults keep a state with full histories of 11-character ids within 4 KiB (it goes to the changelog at each
    batch of a user's events). Defaults of the long view: KuaiComt's definition.
    """

    window: int = 50  #: W: entries a history grows to
    drop: int = 16  #: S: oldest entries that go at once when it overflows
    seen: int = 80  #: recently seen videos kept (distinct)
    hated: int = 24  #: hated videos kept (distinct)
    long_view_ms: int = 18_000  #: watched this long, or to the end, is an engagement
    video_actions: tuple[str, ...] = ("like", "follow", "forward", "collect", "comment")
    comment_actions: tuple[str, ...] = ("like", "reply", "write")

    def __post_init__(self) -> None:
        if not 0 < self.drop <= self.window:
            raise ValueError(f"drop must be between 1 and window ({self.window}), not {self.drop}")
        if self.seen < 1 or self.hated < 1:
            raise ValueError("seen and hated must be at least 1")


class Window(Struct, frozen=True):
    """A history, oldest first: parallel columns. `comments` is empty for the video history.

    Numbers lie in arrays (of 64 bits), not in lists: a hundred thousand numbers of thousands of users, each an object
    somewhere in memory, are out of the processor's cache when their user comes again.

    `low_ms`, `low_digest`: the low watermark, the newest event that was dropped; (-1, 0) while none was.
    """

    times: array[int] = msgspec.field(default_factory=partial(array, "q"))
    digests: array[int] = msgspec.field(default_factory=partial(array, "Q"))
    videos: list[str] = msgspec.field(default_factory=list)
    comments: list[str] = msgspec.field(default_factory=list)
    low_ms: int = -1
    low_digest: int = 0


class Recent(Struct, frozen=True):
    """The most recent distinct videos of some kind, as 32-bit digests with their last time in Unix seconds.

    Sorted by (second, digest) and cut from the front, so it is a semilattice: any order of arrival, any number of
    times, gives the same set.
    """

    seconds: array[int] = msgspec.field(default_factory=partial(array, "I"))
    videos: array[int] = msgspec.field(default_factory=partial(array, "I"))


class Newest(Struct, frozen=True):
    """The user's newest event by event time (ties by digest, then topic): the trigger, what a recommendation covers."""

    ts_ms: int
    digest: int
    topic: str
    partition: int
    offset: int
    event_id: str
    video_id: str  #: the video that the user is on


class UserState(Struct, frozen=True):
    """Everything that is remembered of one user."""

    video: Window = msgspec.field(default_factory=Window)
    comment: Window = msgspec.field(default_factory=Window)
    seen: Recent = msgspec.field(default_factory=Recent)
    hated: Recent = msgspec.field(default_factory=Recent)
    newest: Newest | None = None


EMPTY = UserState()
DEFAULT = HistoryConfig()


def event_digest(event_id: str) -> int:
    """64 bits that stand for an event id: enough to tell a user's events apart, at an eighth of the space."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "big")


def engages(event: VideoView | CommentInteraction, config: HistoryConfig = DEFAULT) -> bool:
    """Whether an event enters its history: a long view or a positive action; for comments, `like reply write`.

    Hate is never an engagement, however long the view was.
    """
    if isinstance(event, CommentInteraction):
        return event.action in config.comment_actions
    actions = event.actions or ()
    if "hate" in actions:
        return False
    if any(action in config.video_actions for action in actions):
        return True
    enough = min(event.duration_ms, config.long_view_ms) if event.duration_ms else config.long_view_ms
    return event.watch_ms >= enough


def apply(
    state: UserState,
    event: VideoView | CommentInteraction,
    config: HistoryConfig = DEFAULT,
    *,
    partition: int = -1,
    offset: int = -1,
) -> UserState:
    """The state after `event`. Returns `state` itself if the event changes nothing.

    `partition` and `offset` say where the event was read; they end up in the trigger and in nothing else.
    """
    digest = event_digest(event.event_id)
    ts_ms = event.ts_ms
    video, comment, seen, hated, newest = state.video, state.comment, state.seen, state.hated, state.newest
    if isinstance(event, VideoView):
        topic = EVENT_TOPICS[0]
        if engages(event, config):
            video = _insert(video, ts_ms, digest, event.video_id, None, config)
        if event.actions and "hate" in event.actions:
            hated = _touch(hated, event.video_id, ts_ms, config.hated)
    else:
        topic = EVENT_TOPICS[1]
        if engages(event, config):
            comment = _insert(comment, ts_ms, digest, event.video_id, event.comment_id, config)
    # Also a comment interaction means that the user is on the video: it must not be recommended meanwhile.
    seen = _touch(seen, event.video_id, ts_ms, config.seen)
    # The topic decides where both have an event of the same id and time, so that the order of arrival does not.
    if newest is None or (ts_ms, digest, topic) > (newest.ts_ms, newest.digest, newest.topic):
        newest = Newest(ts_ms, digest, topic, partition, offset, event.event_id, event.video_id)
    if (
        video is state.video
        and comment is state.comment
        and seen is state.seen
        and hated is state.hated
        and newest is state.newest
    ):
        return state
    return UserState(video, comment, seen, hated, newest)


def _insert(
    window: Window, ts_ms: int, digest: int, video_id: str, comment_id: str | None, config: HistoryConfig
) -> Window:
    if (ts_ms, digest) <= (window.low_ms, window.low_digest) or digest in window.digests:
        return window
    times, digests = window.times[:], window.digests[:]
    videos, comments = window.videos.copy(), window.comments.copy()
    if not times or (ts_ms, digest) > (times[-1], digests[-1]):
        at = len(times)
    else:
        at = bisect_left(times, ts_ms)
        while at < len(times) and times[at] == ts_ms and digests[at] < digest:
            at += 1
    times.insert(at, ts_ms)
    digests.insert(at, digest)
    videos.insert(at, video_id)
    if comment_id is not None:
        comments.insert(at, comment_id)
    low_ms, low_digest = window.low_ms, window.low_digest
    if len(times) > config.window:
        last = config.drop - 1
        low_ms, low_digest = times[last], digests[last]
        for column in (times, digests, videos, comments):
            del column[: config.drop]
    return Window(times, digests, videos, comments, low_ms, low_digest)


def _touch(recent: Recent, video_id: str, ts_ms: int, limit: int) -> Recent:
    second = min(ts_ms // 1000, 0xFFFFFFFF)
    video = video_digest(video_id)
    known = video in recent.videos
    if known and recent.seconds[recent.videos.index(video)] >= second:
        return recent
    full = len(recent.videos) >= limit
    if full and not known and (second, video) < (recent.seconds[0], recent.videos[0]):
        return recent
    seconds, videos = recent.seconds[:], recent.videos[:]
    if known:
        old = videos.index(video)
        del seconds[old], videos[old]
    at = len(seconds)
    if seconds and (second, video) < (seconds[-1], videos[-1]):
        at = bisect_left(seconds, second)
        while at < len(seconds) and seconds[at] == second and videos[at] < video:
            at += 1
    seconds.insert(at, second)
    videos.insert(at, video)
    excess = len(videos) - limit
    if excess > 0:
        del seconds[:excess], videos[:excess]
    return Recent(seconds, videos)
