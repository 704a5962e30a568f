"""What is scored from sessions is what is scored from the beginning, whatever the events."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_sr import write_random_sr

from model_runtime.bundle import Bundle
from model_runtime.graph_steps import GraphSteps
from model_runtime.pools import Pools
from model_runtime.scorer import CHUNK, Ranking, Request, Scorer
from model_runtime.sessions import Sessions, SessionUse

pytestmark = pytest.mark.train

WINDOW, DROP, DIM = 12, 5, 16
VIDEOS, COMMENTS = 30, 90
#: the promise: scores within this of those of a full encoding
TOLERANCE = 1e-4
SLOT = Pools(WINDOW, DIM, 2, 2, 0).slot_bytes


@pytest.fixture(scope="module")
def whole_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("bundle") / "b"
    return write_random_sr(folder, videos=VIDEOS, comments=COMMENTS, window=WINDOW, drop=DROP, dim=DIM)


@pytest.fixture(scope="module", params=["compiled", "graphs"])
def steps(request: pytest.FixtureRequest) -> str:
    """What takes the steps: compiled functions, or graphs as where Numba or the weights for it are missing."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    return request.param


@pytest.fixture(scope="module")
def bundle(whole_bundle: Bundle, steps: str) -> Bundle:
    return whole_bundle if steps == "compiled" else replace(whole_bundle, step_weights=None)


def scorer_of(bundle: Bundle, **settings: int) -> Scorer:
    scorer = Scorer(bundle, **settings)
    scorer.sessions.wait()
    return scorer


@dataclass
class User:
    """A user's histories, changed by events as `streams.history` does."""

    name: str
    videos: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    current: str | None = None

    def happen(self, kind: str, number: int) -> None:
        video, comment = f"v{number % (VIDEOS + 3)}", f"c{number % (COMMENTS + 5)}"  # a few are not known
        if kind == "video":
            self.videos = [*self.videos, video]
        elif kind == "comment":
            self.pairs = [*self.pairs, (video, comment)]
        elif kind == "late video":
            at = max(0, len(self.videos) - 1 - number % 3)
            self.videos = [*self.videos[:at], video, *self.videos[at:]]
        elif kind == "late comment":
            at = max(0, len(self.pairs) - 1 - number % 3)
            self.pairs = [*self.pairs[:at], (video, comment), *self.pairs[at:]]
        elif kind == "lost":
            self.videos, self.pairs = self.videos[: number % 4], self.pairs[: number % 3]
        self.current = video
        if len(self.videos) > WINDOW:
            self.videos = self.videos[DROP:]
        if len(self.pairs) > WINDOW:
            self.pairs = self.pairs[DROP:]

    def request(self, user_id: str | None) -> Request:
        return Request(
            self.videos, [v for v, _ in self.pairs], [c for _, c in self.pairs], self.current, user_id=user_id
        )


def assert_close(one: Ranking, other: Ranking) -> None:
    """The same items with the same scores; items whose scores are that close may swap places."""
    for ids, scores, other_ids, other_scores in (
        (one.video_ids, one.video_scores, other.video_ids, other.video_scores),
        (one.comment_ids, one.comment_scores, other.comment_ids, other.comment_scores),
    ):
        # rankings hold all videos and comments there are
        assert set(ids) == set(other_ids)
        expected = dict(zip(other_ids, other_scores, strict=True))
        np.testing.assert_allclose(scores, [expected[id_] for id_ in ids], rtol=0, atol=TOLERANCE)


def compare(scorer: Scorer, plain: Scorer, users: list[User]) -> None:
    found = scorer.score([user.request(user.name) for user in users])
    wanted = plain.score([user.request(None) for user in users])
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other)


_kinds = st.sampled_from(["video"] * 6 + ["comment"] * 3 + ["view", "late video", "late comment", "lost"])
_events = st.lists(st.tuples(st.integers(0, 4), _kinds, st.integers(0, 200)), max_size=6)
_steps = st.lists(st.tuples(_events, st.sets(st.integers(0, 4), min_size=1), st.integers(0, 9)), max_size=12)


@settings(max_examples=25)
@given(_steps)
def test_sessions_give_what_full_encodings_give(
    bundle: Bundle, steps: list[tuple[list[tuple[int, str, int]], set[int], int]]
) -> None:
    scorer, plain = scorer_of(bundle, session_bytes=CHUNK * SLOT), scorer_of(bundle, session_bytes=0)
    rng = np.random.default_rng(len(steps))
    users = [User(f"u{i}") for i in range(5)]
    for events, asked, growth in steps:
        for who, kind, number in events:
            users[who].happen(kind, number)
        if growth >= 8:
            # an unknown video or comment becomes known, or a known one gets another title
            vector = rng.normal(size=DIM).astype(np.float32) / 4
            for each in (scorer, plain):
                each.candidates.add_video(f"v{VIDEOS + len(events) % 3}", vector)
                each.candidates.add_video(f"v{len(events)}", vector)
                each.candidates.add_comment(f"c{COMMENTS + len(events) % 5}", "v1", vector)
        compare(scorer, plain, [users[who] for who in sorted(asked)])


def test_what_can_go_on_does_go_on(bundle: Bundle, steps: str) -> None:
    scorer = scorer_of(bundle)
    users = [User(f"u{i}") for i in range(3)]
    counts = scorer.sessions.counts

    def score() -> dict[str, int]:
        before = dict(counts)
        scorer.score([user.request(user.name) for user in users])
        return {kind: counts[kind] - before[kind] for kind in counts if counts[kind] != before[kind]}

    assert score() == {"fill": 3}
    assert score() == {"query": 3}
    for user in users:
        user.happen("video", 1)
    users[0].happen("comment", 2)
    assert score() == {"step": 4}
    users[1].happen("late video", 3)
    users[2].happen("view", 4)
    assert score() == {"restart" if steps == "compiled" else "fill": 1, "query": 2}
    users[0].videos, users[0].pairs = ["v7"], [("v8", "c9")]
    assert score() == {"fill": 1, "query": 2}
    for number in range(WINDOW):
        users[2].happen("video", number)
        score()
    before = dict(counts)
    users[2].happen("video", 5)
    score()
    assert {kind: counts[kind] - before[kind] for kind in counts} == {
        "fill": 0,
        "step": 1,
        "restart": 0,
        "query": 2,
        "plain": 0,
    }
    assert scorer.score([Request(["v1"])])
    assert counts["plain"] == 1


def test_least_recently_used_sessions_make_room(bundle: Bundle) -> None:
    scorer, plain = scorer_of(bundle, session_bytes=CHUNK * SLOT + SLOT // 2), scorer_of(bundle, session_bytes=0)
    users = [User(f"u{i}") for i in range(CHUNK + 10)]
    for number, user in enumerate(users):
        user.happen("video", number)
    compare(scorer, plain, users[:CHUNK])
    assert (len(scorer.sessions), scorer.sessions.counts["fill"]) == (CHUNK, CHUNK)
    assert scorer.sessions.use() == SessionUse(CHUNK, CHUNK, 0, scorer.sessions.counts)
    compare(scorer, plain, users[:1])  # u0 is now the most recent
    compare(scorer, plain, users[CHUNK:])  # u1 to u10 go
    assert len(scorer.sessions) == CHUNK
    fills = scorer.sessions.counts["fill"]
    compare(scorer, plain, users[:1] + users[11:CHUNK])
    assert scorer.sessions.counts["fill"] == fills
    compare(scorer, plain, users[1:11])
    assert scorer.sessions.counts["fill"] == fills + 10
    assert scorer.sessions.use()[:3] == (CHUNK, CHUNK, 20)


def test_a_budget_too_small_for_a_batch_keeps_nothing(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    scorer = scorer_of(bundle, session_bytes=(CHUNK - 1) * SLOT)
    assert f"have room for {CHUNK - 1}, and a batch has up to {CHUNK}" in caplog.text
    scorer.score([Request(["v1"], user_id="u")])
    assert (len(scorer.sessions), scorer.sessions.counts["plain"]) == (0, 1)


def test_a_user_twice_in_a_batch_is_two_users(bundle: Bundle) -> None:
    scorer, plain = scorer_of(bundle), scorer_of(bundle, session_bytes=0)
    compare(scorer, plain, [User("u", ["v1"]), User("u", ["v1", "v2"]), User("u", ["v3"])])
    compare(scorer, plain, [User("u", ["v1", "v2", "v3"])])


def test_a_failed_batch_leaves_no_half_session(bundle: Bundle, steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, plain = scorer_of(bundle), scorer_of(bundle, session_bytes=0)
    user = User("u", ["v1"], [("v2", "c3")])
    compare(scorer, plain, [user])
    with monkeypatch.context() as patch:
        if steps == "compiled":
            from model_runtime.compiled import CompiledSteps

            patch.setattr(CompiledSteps, "_videos", lambda *_: 1 / 0)
        else:
            patch.setattr(Pools, "append", lambda *_: 1 / 0)
        user.happen("video", 5)
        user.happen("comment", 5)
        with pytest.raises(ZeroDivisionError):
            scorer.score([user.request("u"), Request(["v1"], user_id="new")])
    assert len(scorer.sessions) == 0
    compare(scorer, plain, [user, User("new", ["v1"])])


def test_a_list_that_its_owner_changes_is_noticed(bundle: Bundle) -> None:
    scorer, plain = scorer_of(bundle), scorer_of(bundle, session_bytes=0)
    user = User("u", ["v1", "v2"])
    compare(scorer, plain, [user])
    user.videos[0] = "v9"
    compare(scorer, plain, [user])
    user.videos.append("v10")
    compare(scorer, plain, [user])


@pytest.mark.slow
def test_ten_thousand_sequences(bundle: Bundle) -> None:
    scorer, plain = scorer_of(bundle, session_bytes=2 * CHUNK * SLOT), scorer_of(bundle, session_bytes=0)
    random_ = random.Random(5)
    kinds = ["video"] * 12 + ["comment"] * 5 + ["view", "late video", "late comment", "lost"]
    for batch in range(10_000 // CHUNK + 1):
        users = [User(f"u{batch}-{i}") for i in range(CHUNK)]
        for _ in range(random_.randint(10, 30)):
            for user in users:
                for _ in range(random_.choice((0, 1, 1, 1, 2, 3))):
                    user.happen(random_.choice(kinds), random_.randrange(200))
            compare(scorer, plain, random_.sample(users, random_.randint(1, CHUNK)))
    assert scorer.sessions.counts["step"] > 10_000


def test_compiled_steps_go_on_where_graphs_were(whole_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a worker starts before the functions are compiled: sessions stay good."""
    pytest.importorskip("numba")
    compiled = Event()
    load = Sessions._load
    monkeypatch.setattr(Sessions, "_load", lambda *arguments: (compiled.wait(60), load(*arguments)))
    monkeypatch.setattr("model_runtime.sessions._LOADING_S", 0.0)
    scorer = Scorer(whole_bundle)
    plain = Scorer(replace(whole_bundle, step_weights=None), session_bytes=0)
    users = [User(f"u{i}") for i in range(3)]
    for number in range(2 * WINDOW):
        if number == WINDOW // 2:
            assert isinstance(scorer.sessions._steps, GraphSteps)
            compiled.set()
            scorer.sessions.wait()
        for user in users:
            user.happen("comment" if number % 3 == 0 else "video", number)
        compare(scorer, plain, users)
    assert not isinstance(scorer.sessions._steps, GraphSteps)
    assert scorer.sessions.counts["fill"] == len(users)
