"""The laws of a user's state (see `streams.history`), each as a property."""

import uuid
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import history
from streams.events import CommentInteraction, VideoView
from streams.history import (
    DEFAULT,
    EMPTY,
    HistoryConfig,
    Recent,
    StateFormatError,
    UserState,
    Window,
    apply,
    engages,
    event_digest,
)

Event = VideoView | CommentInteraction
NOW_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
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


def legal_order(log: Sequence[Event], config: HistoryConfig, random: Random) -> list[Event]:
    """A random arrival order in which every event that engages is newer than its history's low watermark.

    Built, not filtered, and every such order can come up: an arrival is legal as long as the block that the next drop
    will take, the oldest of what is there and what is yet to come, still fits in before the drop. So per history: of
    that block, no more may be missing than there are places left.
    """
    to_come = list(log)
    present: dict[type, list[tuple[int, int]]] = {VideoView: [], CommentInteraction: []}
    order = []
    while to_come:
        allowed = []
        for kind, here in present.items():
            coming = [event for event in to_come if isinstance(event, kind) and engages(event, config)]
            block = sorted(here + [place(event) for event in coming])[: config.drop]
            missing = set(block) - set(here)
            places = config.window + 1 - len(here)
            overflows = len(here) + len(coming) > config.window
            urgent = overflows and len(missing) >= places
            allowed += [event for event in coming if not urgent or place(event) in missing]
        allowed += [event for event in to_come if not engages(event, config)]
        event = random.choice(allowed)
        to_come.remove(event)
        order.append(event)
        if engages(event, config):
            here = present[type(event)]
            here.append(place(event))
            here.sort()
            if len(here) > config.window:
                del here[: config.drop]
    return order


def windows_by_definition(log: Sequence[Event], config: HistoryConfig, kind: type) -> Window:
    """What the docstring of `streams.history` promises, computed from the whole log at once."""
    events = sorted((event for event in log if isinstance(event, kind) and engages(event, config)), key=place)
    overflow = len(events) - config.window
    gone = config.drop * (0 if overflow <= 0 else 1 + (overflow - 1) // config.drop)
    kept = events[gone:]
    low = place(events[gone - 1]) if gone else (-1, 0)
    comments = [event.comment_id for event in kept if isinstance(event, CommentInteraction)]
    return Window(
        [event.ts_ms for event in kept],
        [event_digest(event.event_id) for event in kept],
        [event.video_id for event in kept],
        comments,
        *low,
    )


@given(logs, configs, randoms)
def test_any_legal_order_of_arrival_gives_the_same_state(
    log: list[Event], config: HistoryConfig, random: Random
) -> None:
    in_time = fold(sorted(log, key=place), config)
    assert fold(legal_order(log, config, random), config) == in_time
    assert in_time.video == windows_by_definition(log, config, VideoView)
    assert in_time.comment == windows_by_definition(log, config, CommentInteraction)


@settings(max_examples=20)
@given(randoms)
def test_the_law_of_order_holds_for_the_real_window(random: Random) -> None:
    log: list[Event] = [
        VideoView(f"e{number}", "u", f"v{number % 60}", NOW_MS + random.randrange(150), 20_000) for number in range(180)
    ]
    order = legal_order(log, DEFAULT, random)
    assert order != sorted(log, key=place)
    assert fold(order, DEFAULT) == fold(sorted(log, key=place), DEFAULT)


@given(logs, configs, randoms)
def test_an_event_again_changes_nothing(log: list[Event], config: HistoryConfig, random: Random) -> None:
    state = fold(log, config)
    for event in random.sample(log, len(log)):  # those that have left the window, too
        assert apply(state, event, config, partition=0, offset=999) is state


@given(logs, configs, randoms)
def test_a_crash_that_repeats_a_stretch_of_the_log_changes_nothing(
    log: list[Event], config: HistoryConfig, random: Random
) -> None:
    start, stop = sorted((random.randint(0, len(log)), random.randint(0, len(log))))
    repeated = fold(log[:stop], config)
    recovered = history.decode(history.encode(repeated))
    assert fold(log[start:], config, recovered) == fold(log, config)


@given(logs, configs)
def test_an_event_older_than_the_watermark_enters_no_window(log: list[Event], config: HistoryConfig) -> None:
    state = fold(log, config)
    for window, late in (
        (state.video, VideoView("e900", "u", "v1", state.video.low_ms - 1, 20_000)),
        (state.comment, CommentInteraction("e901", "u", "v1", "c1", state.comment.low_ms - 1, "like")),
    ):
        if window.low_ms > 0:
            after = apply(state, late, config)
            assert (after.video, after.comment, after.newest) == (state.video, state.comment, state.newest)


@given(logs, configs)
def test_a_state_stays_within_its_bounds(log: list[Event], config: HistoryConfig) -> None:
    state = EMPTY
    for event in log:
        state = apply(state, event, config)
        for window in (state.video, state.comment):
            assert len(window.times) == len(window.digests) == len(window.videos) <= config.window
            assert sorted(zip(window.times, window.digests, strict=True)) == list(
                zip(window.times, window.digests, strict=True)
            )
        assert len(state.comment.comments) == len(state.comment.times)
        assert len(state.seen.videos) == len(set(state.seen.videos)) <= config.seen
        assert len(state.hated.videos) == len(set(state.hated.videos)) <= config.hated


@settings(max_examples=25)
@given(randoms)
def test_a_full_state_takes_at_most_4_kib(random: Random) -> None:
    """With ids of 11 characters, gaps just below 49 days, event ids that are UUIDs, no video in both histories."""

    def name() -> str:
        return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789_-", k=11))

    state, ts_ms = EMPTY, 1_000_000_000_000
    for _ in range(DEFAULT.window + DEFAULT.drop):
        ts_ms += random.randrange(48 * DAY_MS, 49 * DAY_MS) // 2
        like = VideoView(str(uuid.UUID(int=random.getrandbits(128))), "u", name(), ts_ms, 1, actions=("like",))
        state = apply(state, like, partition=1000, offset=2**40)
        hate = VideoView(str(uuid.UUID(int=random.getrandbits(128))), "u", name(), ts_ms, 1, actions=("hate",))
        state = apply(state, hate, partition=1000, offset=2**40)
        ts_ms += random.randrange(48 * DAY_MS, 49 * DAY_MS) // 2
        write = CommentInteraction(str(uuid.UUID(int=random.getrandbits(128))), "u", name(), name(), ts_ms, "write")
        state = apply(state, write, partition=1000, offset=2**40)
        full = len(state.video.times) == len(state.comment.times) == DEFAULT.window
        if full:
            assert (len(state.seen.videos), len(state.hated.videos)) == (DEFAULT.seen, DEFAULT.hated)
            assert len(history.encode(state)) <= 4096
    assert full
    assert state.video.low_ms > 0
    assert state.comment.low_ms > 0


@given(logs, configs)
def test_a_state_survives_encoding(log: list[Event], config: HistoryConfig) -> None:
    state = fold(log, config)
    assert history.decode(history.encode(state)) == state


A_RECORD = history.encode(
    fold(
        [
            *(VideoView(f"e{n}", "u", f"v{n}", NOW_MS + n, 20_000, actions=("hate",) * (n % 3 == 0)) for n in range(9)),
            *(CommentInteraction(f"e{n}", "u", f"v{n}", f"c{n}", NOW_MS + n, "like") for n in range(9, 15)),
        ],
        DEFAULT,
    )
)


def reads_or_refuses(record: bytes) -> None:
    try:
        state = history.decode(record)
    except StateFormatError:
        return
    assert history.decode(history.encode(state)) == state  # what is read is a whole state, whatever it says


@given(st.binary(max_size=200))
def test_noise_is_no_state(record: bytes) -> None:
    reads_or_refuses(record)


@given(st.data())
def test_a_damaged_record_is_read_as_a_state_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(A_RECORD)))
    end = data.draw(st.integers(start, min(len(A_RECORD), start + 6)))
    reads_or_refuses(A_RECORD[:start] + data.draw(st.binary(max_size=6)) + A_RECORD[end:])


def test_a_record_cut_short_is_refused() -> None:
    for length in range(len(A_RECORD)):
        with pytest.raises(StateFormatError, match="not a user state"):
            history.decode(A_RECORD[:length])


@pytest.mark.parametrize(
    "record",
    [b"\xc0", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x91\x01", b"\x81\x00\x01", b"\xa3abc", A_RECORD + b"\x00"],
)
def test_what_is_no_state_is_refused(record: bytes) -> None:
    with pytest.raises(StateFormatError, match="not a user state"):
        history.decode(record)


def test_a_state_of_another_format_says_so() -> None:
    with pytest.raises(StateFormatError, match=r"format 2; this version reads 1"):
        history.decode(b"\x93\x02\xa3new\xc0")


touches = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12_000)), max_size=30)


@given(touches, st.integers(1, 5), randoms)
def test_seen_videos_are_a_semilattice(touched: list[tuple[int, int]], limit: int, random: Random) -> None:
    """Any order, any number of times: the videos with the latest times."""

    def gather(pairs: Sequence[tuple[int, int]]) -> Recent:
        recent = Recent()
        for video, ts_ms in pairs:
            recent = history._touch(recent, f"v{video}", ts_ms, limit)
        return recent

    recent = gather(touched)
    again = touched + random.choices(touched, k=5) if touched else []
    assert gather(random.sample(again, len(again))) == recent
    latest: dict[int, int] = {}
    for video, ts_ms in touched:
        digest = history.video_digest(f"v{video}")
        latest[digest] = max(latest.get(digest, 0), ts_ms // 1000)
    expected = sorted((second, digest) for digest, second in latest.items())[-limit:]
    assert list(zip(recent.seconds, recent.videos, strict=True)) == expected


@given(logs, configs, randoms)
def test_the_newest_event_is_the_trigger(log: list[Event], config: HistoryConfig, random: Random) -> None:
    state = fold(random.sample(log, len(log)), config)
    if not log:
        assert state.newest is None
        return
    newest = max(log, key=place)
    topic = "video-views" if isinstance(newest, VideoView) else "comment-interactions"
    offset = int(newest.event_id[1:])
    expected = (*place(newest), topic, 3, offset, newest.event_id, newest.video_id)
    assert state.newest == history.Newest(*expected)


def view(watch_ms: int, duration_ms: int | None, *actions: str) -> VideoView:
    return VideoView("e1", "u", "v", NOW_MS, watch_ms, duration_ms, actions or None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "counts"),
    [
        # a long view, as KuaiComt defines it: to the end of a video of at most 18 s, else 18 s
        (view(9_999, 10_000), False),
        (view(10_000, 10_000), True),
        (view(12_000, 10_000), True),  # watched more than once
        (view(17_999, 18_000), False),
        (view(18_000, 18_000), True),
        (view(17_999, 60_000), False),
        (view(18_000, 60_000), True),
        (view(1, 1), True),
        (view(0, 10_000), False),
        # unknown lengths
        (view(17_999, None), False),
        (view(18_000, None), True),
        (view(5_000, 0), False),
        (view(18_000, 0), True),
        # actions
        *((view(0, 60_000, action), True) for action in ("like", "follow", "forward", "collect", "comment")),
        (view(60_000, 60_000, "hate"), False),
        (view(0, 60_000, "like", "hate"), False),
        (view(0, 60_000, "hate"), False),
        # comments
        *(
            (CommentInteraction("e1", "u", "v", "c", NOW_MS, action, dwell_ms=60_000), counts)  # type: ignore[arg-type]
            for action, counts in {"view": False, "expand": False, "like": True, "reply": True, "write": True}.items()
        ),
    ],
)
def test_what_counts_as_an_engagement(event: Event, counts: bool) -> None:
    assert engages(event) is counts
    state = apply(EMPTY, event)
    assert bool(state.video.times or state.comment.times) is counts
    assert state.seen.videos == [history.video_digest("v")]
    assert bool(state.hated.videos) == (isinstance(event, VideoView) and "hate" in (event.actions or ()))


def test_what_counts_is_configuration() -> None:
    config = HistoryConfig(long_view_ms=5_000, video_actions=("collect",), comment_actions=("expand",))
    assert engages(view(5_000, 60_000), config)
    assert not engages(view(4_000, 60_000, "like"), config)
    assert engages(CommentInteraction("e", "u", "v", "c", NOW_MS, "expand"), config)
    assert not engages(CommentInteraction("e", "u", "v", "c", NOW_MS, "like"), config)


@pytest.mark.parametrize("fields", [{"drop": 0}, {"window": 4, "drop": 5}, {"seen": 0}, {"hated": 0}])
def test_a_configuration_that_can_not_work_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HistoryConfig(**fields)  # type: ignore[arg-type]
