"""The simulator: same seed, same bytes; a log that holds together; a truth worth learning."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.cli import main
from offline_train.log import Log
from offline_train.sources.simulator import Oracle, Simulator, SimulatorConfig
from offline_train.sources.writer import FILES
from streams import topics
from streams.events import Comment, CommentInteraction, Video, VideoView, encode

SMALL = SimulatorConfig(seed=7, users=120, videos=200, comments=1_500, days=10, interactions=6_000, topics=8)
DAY_MS = 24 * 3600 * 1000


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(SMALL)


@pytest.fixture(scope="module")
def events(simulator: Simulator) -> list[VideoView | CommentInteraction]:
    return list(simulator.events())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sim")
    Simulator(SMALL).write(out)
    return out


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    Simulator(SMALL).write(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([*FILES.values(), "oracle.npz"])
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_another_seed_is_another_log(folder: Path, tmp_path: Path) -> None:
    Simulator(replace(SMALL, seed=8)).write(tmp_path)
    for name in FILES.values():
        assert (folder / name).read_bytes() != (tmp_path / name).read_bytes()


def test_the_files_are_what_the_methods_give(
    folder: Path, simulator: Simulator, events: list[VideoView | CommentInteraction]
) -> None:
    videos, comments = simulator.catalog()
    views = [event for event in events if isinstance(event, VideoView)]
    interactions = [event for event in events if isinstance(event, CommentInteraction)]
    for topic, records in zip(
        (topics.VIDEOS, topics.COMMENTS, topics.VIDEO_VIEWS, topics.COMMENT_INTERACTIONS),
        (videos, comments, views, interactions),
        strict=True,
    ):
        assert (folder / FILES[topic]).read_bytes() == b"".join(encode(record) + b"\n" for record in records)  # type: ignore[attr-defined]


def test_a_moved_log_is_the_same_log_later(events: list[VideoView | CommentInteraction]) -> None:
    now_ms = 1_800_000_000_000
    config = SMALL.ending_at(now_ms)
    shift = config.start_ms - SMALL.start_ms
    moved = list(Simulator(config).events())
    assert [event.ts_ms - shift for event in moved] == [event.ts_ms for event in events]
    assert [event.event_id for event in moved] == [event.event_id for event in events]
    assert moved[-1].ts_ms == pytest.approx(now_ms, abs=DAY_MS)


@settings(max_examples=15)
@given(
    st.builds(
        SimulatorConfig,
        seed=st.integers(0, 2**63 - 1),
        users=st.integers(20, 60),
        videos=st.integers(100, 200),
        comments=st.integers(1, 200),
        days=st.integers(1, 4),
        interactions=st.integers(1, 200),
        topics=st.integers(2, 20),
    )
)
def test_a_log_of_any_size_holds_together(config: SimulatorConfig) -> None:
    simulator = Simulator(config)
    events = list(simulator.events())
    videos, comments = simulator.catalog()
    assert len(events) == config.interactions
    assert len(videos) == config.videos
    writes = [e for e in events if isinstance(e, CommentInteraction) and e.action == "write"]
    assert len(comments) == config.comments + len(writes)
    check_log(events, videos, comments)


def check_log(events: list[VideoView | CommentInteraction], videos: list[Video], comments: list[Comment]) -> None:
    video_of, comment_of = {v.video_id: v for v in videos}, {c.comment_id: c for c in comments}
    last: dict[str, int] = {}
    on: dict[str, str] = {}
    watched: set[tuple[str, str]] = set()
    assert all(a.ts_ms <= b.ts_ms for a, b in pairwise(events))
    assert len({event.event_id for event in events}) == len(events)
    for event in events:
        assert last.get(event.user_id, -1) < event.ts_ms, "a user does one thing at a time"
        last[event.user_id] = event.ts_ms
        assert event.ts_ms > (video_of[event.video_id].created_ms or 0)
        if isinstance(event, VideoView):
            assert (event.user_id, event.video_id) not in watched
            watched.add((event.user_id, event.video_id))
            on[event.user_id] = event.video_id
        else:
            comment = comment_of[event.comment_id]
            assert on[event.user_id] == event.video_id == comment.video_id, "comments are under the video last watched"
            if event.action == "write":
                assert (comment.user_id, comment.created_ms) == (event.user_id, event.ts_ms)
            else:
                assert (comment.created_ms or 0) < event.ts_ms


def test_the_log_holds_together(simulator: Simulator, events: list[VideoView | CommentInteraction]) -> None:
    assert len(events) == SMALL.interactions
    check_log(events, *simulator.catalog())


def test_all_kinds_of_behaviour_occur_and_hate_is_rare(events: list[VideoView | CommentInteraction]) -> None:
    views = [event for event in events if isinstance(event, VideoView)]
    actions = Counter(action for view in views for action in view.actions or ())
    assert set(actions) == {"like", "follow", "forward", "collect", "comment", "hate"}
    assert actions["hate"] < 0.02 * len(views)
    assert actions["hate"] < actions["like"]
    done = Counter(event.action for event in events if isinstance(event, CommentInteraction))
    assert set(done) == {"view", "expand", "like", "reply", "write"}
    sessions = Counter()
    for user in {view.user_id for view in views}:
        times = [view.ts_ms for view in views if view.user_id == user]
        sessions["together"] += sum(b - a < 600_000 for a, b in pairwise(times))
        sessions["apart"] += sum(b - a >= 600_000 for a, b in pairwise(times))
    assert sessions["together"] > 2 * sessions["apart"]


def test_videos_and_users_keep_appearing(simulator: Simulator, events: list[VideoView | CommentInteraction]) -> None:
    videos, _ = simulator.catalog()
    ages = [(video.created_ms or 0) - SMALL.start_ms for video in videos]
    assert sum(age < 0 for age in ages) == pytest.approx(0.4 * len(videos), abs=1)
    new_on = Counter(age // DAY_MS for age in ages if age >= 0)
    assert set(new_on) == set(range(SMALL.days))
    first: dict[str, int] = {}
    for event in events:
        first.setdefault(event.user_id, event.ts_ms)
    assert sum(ts_ms > SMALL.start_ms + 3 * DAY_MS for ts_ms in first.values()) >= 5


def test_likes_are_told_only_of_comments_from_before_the_log(simulator: Simulator) -> None:
    for comment in simulator.catalog()[1]:
        assert (comment.like_count is not None) == ((comment.created_ms or 0) < SMALL.start_ms)


def test_popularity_has_a_long_tail(events: list[VideoView | CommentInteraction]) -> None:
    counts = sorted(Counter(event.video_id for event in events if isinstance(event, VideoView)).values())
    tenth = len(counts) // 10
    assert sum(counts[-tenth:]) > 3 * sum(counts[:tenth])


def cosine(texts: list[str]) -> np.ndarray:
    words = sorted({word for text in texts for word in text.lower().split()})
    place = {word: at for at, word in enumerate(words)}
    counts = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            counts[row, place[word]] += 1
    counts *= np.log(len(texts) / np.count_nonzero(counts, axis=0))
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    similarity: np.ndarray = counts @ counts.T
    return similarity


def in_and_out(similarity: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    same = group[:, None] == group[None, :]
    off = ~np.eye(len(group), dtype=bool)
    return float(similarity[same & off].mean()), float(similarity[~same].mean())


def test_words_carry_topics_and_tones(simulator: Simulator) -> None:
    oracle = simulator.oracle()
    videos, comments = simulator.catalog()
    inside, outside = in_and_out(cosine([video.title for video in videos]), oracle.videos.topic)
    assert inside > 4 * outside
    rows = np.array([int(comment.comment_id[1:]) for comment in comments[:600]])
    similarity = cosine([comment.text for comment in comments[:600]])
    for group in (oracle.comments.topic[rows], oracle.comments.tone[rows]):
        inside, outside = in_and_out(similarity, group)
        assert inside > 2 * outside


def test_interests_drift_and_come_back(simulator: Simulator) -> None:
    oracle = simulator.oracle()

    def change(days: float) -> float:
        gaps = []
        for user in range(SMALL.users):
            now = oracle.interest(f"u{user}", SMALL.start_ms)
            later = oracle.interest(f"u{user}", SMALL.start_ms + int(days * DAY_MS))
            assert now.sum() == pytest.approx(1, abs=1e-5)
            gaps.append(np.abs(now - later).sum() / 2)
        return float(np.mean(gaps))

    assert 0 < change(1) < change(5) < change(30) < 0.9
    assert change(60) == pytest.approx(0, abs=1e-5)


def test_users_watch_what_they_are_interested_in(
    simulator: Simulator, events: list[VideoView | CommentInteraction]
) -> None:
    oracle = simulator.oracle()
    chosen, chance = [], []
    for view in events:
        if isinstance(view, VideoView):
            share = oracle.interest(view.user_id, view.ts_ms)
            chosen.append(share[oracle.videos.topic[int(view.video_id[1:])]])
            chance.append(share[oracle.videos.topic].mean())
    assert np.mean(chosen) > 2 * np.mean(chance)


def gain(scores: np.ndarray, target: int) -> float:
    rank = int((scores > scores[target]).sum())
    return 1 / float(np.log2(rank + 2)) if rank < 10 else 0.0


def test_the_oracle_beats_popularity_which_beats_chance() -> None:
    """NDCG@10 of the next engaged video among those published and not seen yet, in the last third of the log."""
    simulator = Simulator(replace(SMALL, users=400, videos=400, interactions=12_000))
    oracle = simulator.oracle()
    rng = np.random.default_rng(0)
    popularity = np.zeros(simulator.config.videos)
    seen: defaultdict[str, set[int]] = defaultdict(set)
    gains: defaultdict[str, list[float]] = defaultdict(list)
    for number, event in enumerate(simulator.events()):
        if not isinstance(event, VideoView):
            continue
        video = int(event.video_id[1:])
        engaged = event.watch_ms >= min(event.duration_ms or 0, 18_000)
        if engaged and number > 8_000 and number % 3 == 0:
            rows, scores = oracle.video_scores(event.user_id, event.ts_ms)
            keep = ~np.isin(rows, list(seen[event.user_id]))
            rows, scores = rows[keep], scores[keep]
            if video in rows:
                at = int(np.flatnonzero(rows == video)[0])
                gains["oracle"].append(gain(scores, at))
                gains["popularity"].append(gain(popularity[rows] + 1e-9 * rng.random(len(rows)), at))
                gains["random"].append(gain(rng.random(len(rows)), at))
        seen[event.user_id].add(video)
        popularity[video] += engaged
    assert len(gains["oracle"]) > 300
    mean = {name: float(np.mean(values)) for name, values in gains.items()}
    assert mean["oracle"] > 2 * mean["popularity"] > 2 * mean["random"]


def test_the_oracle_knows_which_comment_is_liked(
    simulator: Simulator, events: list[VideoView | CommentInteraction]
) -> None:
    oracle = simulator.oracle()
    rng = np.random.default_rng(0)
    truth, chance = [], []
    for event in events:
        if isinstance(event, CommentInteraction) and event.action in ("like", "reply"):
            rows, scores = oracle.comment_scores(event.user_id, event.video_id, event.ts_ms)
            (at,) = np.flatnonzero(rows == int(event.comment_id[1:]))
            if len(rows) > 3:
                truth.append(gain(scores, int(at)))
                chance.append(gain(rng.random(len(rows)), int(at)))
    assert len(truth) > 200
    assert np.mean(truth) > 1.3 * np.mean(chance)


def test_an_oracle_is_read_as_it_was_written(folder: Path, simulator: Simulator) -> None:
    read, made = Oracle.load(folder / "oracle.npz"), simulator.oracle()
    ts_ms = SMALL.start_ms + 5 * DAY_MS
    for user in ("u0", "u77"):
        for mine, its in zip(made.video_scores(user, ts_ms), read.video_scores(user, ts_ms), strict=True):
            np.testing.assert_array_equal(mine, its)
    rows, scores = read.comment_scores("u3", "v0", ts_ms)
    assert len(rows) == len(scores)
    assert all(read.comments.video[rows] == 0)
    assert all(read.comments.written_ms[rows] < 5 * DAY_MS)
    published, _ = read.video_scores("u0", ts_ms)
    assert (read.videos.published_ms[published] <= 5 * DAY_MS).all()
    assert len(published) < SMALL.videos


def test_what_is_no_oracle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="no oracle"):
        Oracle.load(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="expected u and a number"):
        Simulator(SMALL).oracle().video_scores("film-1", SMALL.start_ms)


def test_the_live_stream_goes_on_where_the_log_ends(
    simulator: Simulator, events: list[VideoView | CommentInteraction]
) -> None:
    now_ms, rate = 1_800_000_000_000, 20.0
    stream = list(islice(simulator.live(now_ms, rate), 4_000))
    records = [record for _, record in stream]
    assert records == [record for _, record in islice(Simulator(SMALL).live(now_ms, rate), 4_000)]
    kinds = {Video: topics.VIDEOS, Comment: topics.COMMENTS, VideoView: topics.VIDEO_VIEWS}
    assert all(topic == kinds.get(type(record), topics.COMMENT_INTERACTIONS) for topic, record in stream)
    times = [r.created_ms if isinstance(r, Video | Comment) else r.ts_ms for r in records]
    assert times == [now_ms + 50 * number for number in range(4_000)]

    videos, comments = simulator.catalog()
    known = {v.video_id for v in videos} | {c.comment_id for c in comments}
    new = Counter()
    event_ids = {event.event_id for event in events}
    watched = {(event.user_id, event.video_id) for event in events if isinstance(event, VideoView)}
    for record in records:
        if isinstance(record, Video | Comment):
            name = record.video_id if isinstance(record, Video) else record.comment_id
            assert name not in known
            assert isinstance(record, Video) or record.video_id in known
            known.add(name)
            new[type(record)] += 1
            continue
        assert record.event_id not in event_ids
        event_ids.add(record.event_id)
        assert record.video_id in known
        assert int(record.user_id[1:]) < SMALL.users
        if isinstance(record, VideoView):
            assert (record.user_id, record.video_id) not in watched
            watched.add((record.user_id, record.video_id))
        else:
            assert record.comment_id in known
    assert new[Video] >= 5
    assert new[Comment] >= 50
    assert any(isinstance(r, VideoView) and int(r.video_id[1:]) >= SMALL.videos for r in records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 3, "interactions": 50_000}, "more than they can make"),
        ({"videos": 40}, "use up 40 videos"),
        ({"topics": 21}, "topics must be from 2 to 20"),
        ({"days": 0}, "days must be at least 1"),
        ({"users": 10**9}, "held in memory"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_a_size_that_can_not_be_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_a_rate_of_nothing_is_refused(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="above 0"):
        next(simulator.live(0, 0))


def test_the_trainers_log_reads_it(folder: Path) -> None:
    log = Log.read(folder)
    assert log.events == SMALL.interactions
    views = log.kind == 0
    assert 0.4 < log.engaged[views].mean() < 0.8


OPTIONS = ["--users", "60", "--videos", "100", "--comments", "200", "--days", "3", "--interactions", "500"]


def test_the_command_writes_a_log(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["simulate", "--out", str(tmp_path), "--seed", "3", *OPTIONS, "--json"])
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)["counts"]
    assert counts["video-views"] + counts["comment-interactions"] == 500
    assert Log.read(tmp_path).events == 500


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--follow"],
        ["--follow", "--topic", "videos", "--out", "x"],
        ["--out", "x", "--users", "1"],
        ["--out", "x", "--rate", "0"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["simulate", *arguments]).exit_code == 2
