"""The laws of a user's state (see `streams.history`), each as a property."""

from array import array
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.user_logs import NOW_MS, Event, configs, fold, logs, place, randoms

from streams import history
from streams.events import CommentInteraction, VideoView
from streams.history import (
    DEFAULT,
    EMPTY,
    HistoryConfig,
    Recent,
    Window,
    apply,
    engages,
    event_digest,
)
from streams.state_record import decode, encode


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
        array("q", [event.ts_ms for event in kept]),
        array("Q", [event_digest(event.event_id) for event in kept]),
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
    recovered = decode(encode(repeated))
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


@given(logs, configs, randoms)
def test_an_id_that_stands_on_both_topics_at_once_gives_the_same_state_in_any_order(
    log: list[Event], config: HistoryConfig, random: Random
) -> None:
    twice: list[Event] = [
        *log,
        *(
            VideoView(event.event_id, "u", "v10", event.ts_ms, 0)
            if isinstance(event, CommentInteraction)
            else CommentInteraction(event.event_id, "u", "v11", "c1", event.ts_ms, "view")
            for event in log
        ),
    ]
    assert fold(legal_order(twice, config, random), config) == fold(legal_order(twice, config, random), config)


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
    assert list(state.seen.videos) == [history.video_digest("v")]
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
