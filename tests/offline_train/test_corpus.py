import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_train.corpus import Corpus, choose_seen, final_states, leave_one_out, temporal_split
from offline_train.log import INTERACTION, VIEW, Log
from streams.events import CommentInteraction, VideoView
from streams.history import EMPTY, HistoryConfig, apply, engages

SMALL = HistoryConfig(window=5, drop=2, seen=400)


@st.composite
def event_lists(draw):
    """Events of three users with many equal times, repeated videos, hate and non-engagements."""
    events = []
    for number in range(draw(st.integers(0, 60))):
        user, video = f"u{draw(st.integers(0, 2))}", f"v{draw(st.integers(0, 9))}"
        ts_ms = draw(st.integers(0, 40)) * 500
        if draw(st.booleans()):
            action = draw(st.sampled_from(["view", "like", "write"]))
            comment = f"{video}-c{draw(st.integers(0, 3))}"
            events.append(CommentInteraction(f"e{number}", user, video, comment, ts_ms, action))
        else:
            actions = draw(st.sampled_from([None, ("hate",), ("like",)]))
            events.append(
                VideoView(f"e{number}", user, video, ts_ms, draw(st.sampled_from([0, 30_000])), None, actions)
            )
    return events


def build(events, config=SMALL):
    return Corpus.build(Log.build(iter(()), iter(events), config), config)


@settings(max_examples=150)
@given(event_lists())
def test_samples_hold_what_the_fold_holds_just_before_the_event(events):
    corpus = build(events)
    log, samples = corpus.log, corpus.samples
    at_event = {int(row): i for i, row in enumerate(samples.event_index)}
    states = {}
    for index in range(log.events):
        event = log.event(index)
        state = states.get(event.user_id, EMPTY)
        assert engages(event, SMALL) == (index in at_event)
        if (i := at_event.get(index)) is not None:
            videos = corpus.videos[samples.video_start[i] : samples.video_end[i]]
            rows = slice(samples.comment_start[i], samples.comment_end[i])
            assert [log.video_ids[v] for v in videos] == state.video.videos
            assert [log.comment_ids[c] for c in corpus.comments[rows]] == state.comment.comments
            assert [log.video_ids[v] for v in corpus.comment_videos[rows]] == state.comment.videos
            assert log.video_ids[samples.target_video[i]] == event.video_id
            assert samples.ts_ms[i] == event.ts_ms
            before = {e.video_id for e in map(log.event, range(index)) if e.user_id == event.user_id}
            assert {log.video_ids[v] for v in corpus.seen_before(i)} == before
            assert len(corpus.seen_before(i)) == len(before) == len(state.seen.videos)
            assert samples.target_seen[i] == (event.video_id in before)
            if samples.kind[i] == INTERACTION:
                assert log.comment_ids[samples.target_comment[i]] == event.comment_id
            else:
                assert samples.kind[i] == VIEW
                assert samples.target_comment[i] == -1
        states[event.user_id] = apply(state, event, SMALL)
    assert final_states(log, SMALL) == states


@settings(max_examples=50)
@given(event_lists(), st.randoms())
def test_final_states_do_not_depend_on_the_order_of_the_log(events, random):
    shuffled = events.copy()
    random.shuffle(shuffled)
    a = final_states(Log.build(iter(()), iter(events), SMALL))
    b = final_states(Log.build(iter(()), iter(shuffled), SMALL))
    assert a == b


def test_the_window_drops_in_blocks_at_the_default_size():
    events = [VideoView(f"e{i}", "u", f"v{i}", i * 1000, 30_000) for i in range(200)]
    samples = build(events, HistoryConfig()).samples
    lengths = (samples.video_end - samples.video_start).tolist()
    assert lengths[50] == 50
    assert lengths[51] == 35
    assert lengths[66] == 50
    assert lengths[67] == 35


def test_a_configuration_that_counts_otherwise_is_refused():
    log = Log.build(iter(()), iter([VideoView("e", "u", "v", 1, 30_000)]), SMALL)
    with pytest.raises(ValueError, match="long_view_ms"):
        Corpus.build(log, HistoryConfig(long_view_ms=1))


def many(users=20, per_user=12):
    return [
        VideoView(f"e{u}-{i}", f"u{u}", f"v{i}", (i * users + u) * 1000, 30_000)
        for u in range(users)
        for i in range(per_user)
    ]


def test_temporal_split_is_two_points_in_time():
    corpus = build(many())
    split = temporal_split(corpus, 0.2, 0.1)
    ts_ms = corpus.samples.ts_ms
    assert ts_ms[split.train].max() < split.valid_ms <= ts_ms[split.valid].min()
    assert ts_ms[split.valid].max() < split.test_ms <= ts_ms[split.test].min()
    assert len(split.test) == 48
    assert len(split.valid) == 24
    assert len(split.train) + len(split.valid) + len(split.test) == len(ts_ms)


def test_temporal_split_refuses_what_it_cannot_split():
    with pytest.raises(ValueError, match="too close"):
        temporal_split(build([VideoView(f"e{i}", "u", "v", 5, 30_000) for i in range(9)]))
    with pytest.raises(ValueError, match="can't split 0"):
        temporal_split(build([]))


def test_leave_one_out_holds_out_the_last_two_of_each_kind():
    events = [
        *(VideoView(f"v{i}", "u", f"v{i}", i * 1000, 30_000) for i in range(6)),
        *(CommentInteraction(f"c{i}", "u", f"v{i}", f"c{i}", i * 1000 + 1, "like") for i in range(6)),
        VideoView("lone", "w", "v0", 1, 30_000),
    ]
    corpus = build(events)
    split = leave_one_out(corpus)

    def names(rows):
        return sorted(corpus.log.event_ids[i] for i in corpus.samples.event_index[rows])

    assert names(split.test) == ["c5", "v5"]
    assert names(split.valid) == ["c4", "v4"]
    assert names(split.train) == ["c0", "c1", "c2", "c3", "lone", "v0", "v1", "v2", "v3"]


def test_seen_is_unbounded_only_where_users_see_little():
    def log(counts):
        return Log.build(
            iter(()),
            iter(VideoView(f"{u}-{i}", f"u{u}", f"v{i}", i, 0) for u, n in enumerate(counts) for i in range(n)),
        )

    assert choose_seen(log([3, 5])) == 80
    assert choose_seen(log([3, 5, 100])) == 100
    assert choose_seen(log([90, 200])) == 80


def test_an_empty_log_has_no_samples():
    corpus = build([])
    assert len(corpus.samples) == 0
    assert final_states(corpus.log) == {}
