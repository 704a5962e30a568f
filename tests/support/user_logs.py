"""One user's events for property tests of the user's state: few videos, many ties, any order."""

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from streams.events import CommentInteraction, VideoView
from streams.history import EMPTY, HistoryConfig, UserState, apply, event_digest

Event = VideoView | CommentInteraction
NOW_MS = 1_700_000_000_000
VIDEO_ACTIONS = ["like", "follow", "forward", "collect", "comment", "hate"]
COMMENT_ACTIONS = ["view", "expand", "like", "reply", "write"]

configs = st.builds(
    lambda window, drop, seen, hated: HistoryConfig(window, min(drop, window), seen, hated),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(1, 4),
)
#: few enough that ties are common
times = st.integers(0, 12).map(lambda tick: NOW_MS + tick * 700)


#: Seeded, not drawn number by number: shuffles do not shrink anyway, and this is ten times faster.
randoms = st.integers(0, 2**64 - 1).map(Random)

_views = st.tuples(
    st.integers(0, 9), times, st.sampled_from([0, 20_000]), st.lists(st.sampled_from(VIDEO_ACTIONS), max_size=2)
)
_touches = st.tuples(st.integers(0, 9), times, st.integers(0, 9), st.sampled_from(COMMENT_ACTIONS))


def _log(drawn: list[Any]) -> list[Event]:
    return [
        VideoView(f"e{number}", "u", f"v{video}", ts_ms, third, actions=tuple(fourth))
        if isinstance(fourth, list)
        else CommentInteraction(f"e{number}", "u", f"v{video}", f"c{third}", ts_ms, fourth)
        for number, (video, ts_ms, third, fourth) in enumerate(drawn)
    ]


#: one user's events in any order: few videos, many ties in time, event ids that are all different
logs = st.lists(_views | _touches, max_size=40).map(_log)


def place(event: Event) -> tuple[int, int]:
    return event.ts_ms, event_digest(event.event_id)


def fold(events: Sequence[Event], config: HistoryConfig, state: UserState = EMPTY) -> UserState:
    """The state after `events`. The trigger's offset is the event's own, so that it stays comparable across orders."""
    for event in events:
        state = apply(state, event, config, partition=3, offset=int(event.event_id[1:]))
    return state
