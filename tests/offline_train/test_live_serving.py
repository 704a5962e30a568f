"""A bundle with live signals ranks in serving as it does in the evaluation: same log, same moment, same scores."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from handmade import DAY, Story
from support.random_sr import write_random_sr

from model_runtime.blend import Blend
from model_runtime.bundle import Bundle
from model_runtime.ids import video_digest
from model_runtime.live_section import LiveItems, LiveSection, LiveTask
from model_runtime.manifest import BundleError
from model_runtime.scorer import Ranking, Request, Scorer
from model_runtime.signals import Signals
from offline_train.corpus import Corpus, temporal_split
from offline_train.deployed import BundleScorer
from offline_train.evaluation import training_events
from offline_train.export import with_metrics
from offline_train.live_asof import engagements, feature_names
from offline_train.live_scorer import LiveScorer
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import Protocols, Queries
from streams.history import HistoryConfig

pytestmark = pytest.mark.train

VIDEOS, COMMENTS, WINDOW = 700, 900, 10
HALF_LIVES = (1.0 * DAY, 7.0 * DAY)


@pytest.fixture(scope="module")
def log() -> Log:
    """Videos come out all the time; users watch what is new, what is old, and return to some."""
    story, random = Story(), np.random.default_rng(7)
    for i in range(VIDEOS):
        story.video(f"v{i}", created=i / 10)
    for i in range(COMMENTS):
        story.comment(f"c{i}", f"v{i % VIDEOS}", created=(i % VIDEOS) / 10 + random.random())
    for moment in range(1500):
        day = 2 + moment / 15
        there = min(int(day * 10), VIDEOS - 1)
        video = (
            int(random.integers(max(0, there - 30), there)) if random.random() < 0.7 else int(random.integers(there))
        )
        user = f"u{random.integers(60)}"
        story.view(user, f"v{video}", day)
        if video < COMMENTS - VIDEOS and random.random() < 0.8:
            under = [f"c{video}", f"c{video + VIDEOS}"]
            story.act(user, f"v{video}", under[int(random.integers(2))], day + 0.01)
    return Log.build(iter(story.catalog), iter(story.events), HistoryConfig(window=WINDOW, drop=3))


def task(kind: str, *, time: bool = True) -> LiveTask:
    names = feature_names(kind, len(HALF_LIVES), time=time)
    random = np.random.default_rng(11)
    wide, tall = len(names), 3
    linear, mean = random.normal(size=wide), random.normal(size=wide)
    blend = Blend(
        list(names),
        mean=mean.tolist(),
        scale=(1 + random.random(wide)).tolist(),
        linear=linear.tolist(),
        hidden=random.normal(size=(wide, tall)).tolist(),
        bias=random.normal(size=tall).tolist(),
        out=random.normal(size=tall).tolist(),
    )
    return LiveTask(list(HALF_LIVES), time, blend)


def section(log: Log, *, time: bool = True) -> LiveSection:
    corpus = Corpus.build(log)
    training = training_events(log, corpus, temporal_split(corpus))
    items = {
        kind: LiveItems(since.astype(np.int64), engagements(log, kind, training))
        for kind, since in (("video", log.first_seen_video), ("comment", log.first_seen_comment))
    }
    return LiveSection({"video": task("video"), "comment": task("comment", time=time)}, items)


@pytest.fixture(scope="module")
def bundle(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    plain = write_random_sr(folder / "plain", videos=VIDEOS, comments=COMMENTS, window=WINDOW, drop=3)
    assert plain.video_ids.tolist() == log.video_ids
    return with_metrics(plain, folder / "live", {}, section(log))


def signals_before(log: Log, event: int, now_ms: int) -> Signals:
    """Counts as a worker has them that took in the log's events before one."""
    signals = Signals()
    before = np.arange(len(log.kind)) < event
    for kind, code, items, ids in (
        ("video", VIEW, log.video, log.video_ids),
        ("comment", INTERACTION, log.comment, log.comment_ids),
    ):
        for partition in range(3):
            rows = np.flatnonzero(before & log.engaged & (log.kind == code) & (log.user % 3 == partition))
            signals.add(kind, {partition: ([ids[items[row]] for row in rows], log.ts_ms[rows].tolist())})
    signals.advance(now_ms)
    return signals


def request_of(log: Log, corpus: Corpus, queries: Queries, i: int) -> Request:
    records = slice(queries.comment_start[i], queries.comment_end[i])
    mine = np.flatnonzero((log.user == queries.user[i]) & (np.arange(len(log.user)) < queries.event_index[i]))
    return Request(
        [log.video_ids[v] for v in corpus.videos[queries.video_start[i] : queries.video_end[i]]],
        [log.video_ids[v] for v in corpus.comment_videos[records]],
        [log.comment_ids[c] for c in corpus.comments[records]],
        log.video_ids[queries.video[i]] if queries.video[i] >= 0 else None,
        sorted({video_digest(log.video_ids[v]) for v in log.video[mine]}),
    )


def ranked(log: Log, bundle: Bundle, queries: Queries, i: int) -> Ranking:
    """What serving gives for a question, among what existed then."""
    scorer = Scorer(bundle, top_videos=100, top_comments=50, explain=True)
    now_ms = int(queries.ts_ms[i])
    scorer.candidates.keep_videos(np.array(log.video_ids)[log.first_seen_video < now_ms].tolist())
    scorer.candidates.keep_comments(np.array(log.comment_ids)[log.first_seen_comment < now_ms].tolist())
    scorer.follow(signals_before(log, int(queries.event_index[i]), now_ms))
    return scorer.score([request_of(log, Corpus.build(log), queries, i)])[0]


def questions(log: Log, kind: str, count: int) -> Queries:
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    rows = split.test[corpus.samples.kind[split.test] == (0 if kind == "video" else 1)]
    (queries, _), *_ = Protocols(log).batches(kind, corpus.samples, rows[:: max(1, len(rows) // count)][:count])
    return queries


@pytest.mark.parametrize("kind", ["video", "comment"])
def test_scores_are_those_of_the_evaluation(log: Log, bundle: Bundle, kind: str) -> None:
    corpus = Corpus.build(log)
    training = training_events(log, corpus, temporal_split(corpus))
    assert bundle.live is not None
    trainer = LiveScorer(BundleScorer(bundle, log, corpus, kind), bundle.live.tasks[kind], log, corpus, training)
    queries = questions(log, kind, 8)
    wanted = trainer.scores(queries)
    compared = 0
    for i in range(len(queries)):
        ranking = ranked(log, bundle, queries, i)
        if kind == "video":
            ids, scores, names, mine = ranking.video_ids, ranking.video_scores, log.video_ids, wanted[i]
        else:
            ids, scores = ranking.comment_ids, ranking.comment_scores
            own = slice(queries.starts[i], queries.starts[i + 1])
            names, mine = [log.comment_ids[c] for c in queries.comments[own]], wanted[own].copy()
            known = set(request_of(log, corpus, queries, i).comment_ids)
            mine[[name in known for name in names]] = -np.inf
        best = np.argsort(-mine, kind="stable")[: len(ids)]
        assert np.isfinite(mine[best]).all()
        place = dict(zip(names, mine, strict=True))
        np.testing.assert_allclose(scores, mine[best], atol=1e-4)
        np.testing.assert_allclose(scores, [place[id_] for id_ in ids], atol=1e-4)
        compared += len(ids)
    assert compared > (700 if kind == "video" else 3)


def test_a_recommendation_is_explained_by_its_parts(log: Log, bundle: Bundle) -> None:
    queries = questions(log, "video", 2)
    ranking = ranked(log, bundle, queries, 0)
    assert ranking.video_parts is not None
    for score, part in zip(ranking.video_scores, ranking.video_parts, strict=True):
        assert score == pytest.approx(part.sr + part.live, abs=2e-5)
        assert part.sources
    named = {name for part in ranking.video_parts for name in part.sources}
    assert named == {"nearest", "trending", "newest", "related"}


def test_without_a_history_live_signals_alone_decide(log: Log, bundle: Bundle) -> None:
    scorer = Scorer(bundle, explain=True)
    signals = signals_before(log, len(log.kind), int(log.ts_ms[-1]))
    scorer.follow(signals)
    barred = [video_digest("v5")]
    new, old = scorer.score([Request(barred=barred), Request(["v3"], [], [], None, barred)])
    assert (new.video_source, old.video_source) == ("live", "model")
    assert new.video_parts is not None
    assert old.video_parts is not None
    assert all(part.sr == 0 for part in new.video_parts)
    assert any(part.sr != 0 for part in old.video_parts)
    assert "v5" not in new.video_ids


def test_following_nothing_or_a_bundle_without_weights_is_the_sr_alone(
    log: Log, bundle: Bundle, tmp_path: Path
) -> None:
    plain = write_random_sr(tmp_path / "plain", videos=VIDEOS, comments=COMMENTS, window=WINDOW, drop=3)
    user = Request(["v1", "v2"], ["v3"], ["c3"], "v4")
    (alone,) = Scorer(plain).score([user])
    (off,) = Scorer(bundle).score([user])
    follower = Scorer(plain)
    follower.follow(signals_before(log, len(log.kind), int(log.ts_ms[-1])))
    (without,) = follower.score([user])
    assert alone == off == without


def test_batch_mates_change_nothing(log: Log, bundle: Bundle) -> None:
    scorer = Scorer(bundle)
    scorer.follow(signals_before(log, 900, int(log.ts_ms[900])))
    users = [Request([f"v{(i * k) % VIDEOS}" for k in range(1, 1 + i % 9)], [], [], "v1") for i in range(70)]
    for together, user in zip(scorer.score(users), users, strict=True):
        (by_itself,) = scorer.score([user])
        assert by_itself.video_ids == together.video_ids
        np.testing.assert_allclose(by_itself.video_scores, together.video_scores, atol=2e-5)


def test_what_comes_later_is_newest_at_once_and_ranked_by_its_age(log: Log, bundle: Bundle) -> None:
    scorer = Scorer(bundle, top_videos=1000, explain=True)
    now_ms = int(log.ts_ms[-1])
    scorer.follow(signals_before(log, len(log.kind), now_ms))
    scorer.score([Request()])
    title = bundle.video_title_vectors[0]
    scorer.candidates.created_ms["late"] = now_ms - DAY
    scorer.candidates.add_video("late", title)
    scorer.candidates.add_video("v3", title)  # another title for what the bundle knows: its age and base stay
    (ranking,) = scorer.score([Request(["v1"])])
    assert ranking.video_parts is not None
    assert "newest" in ranking.video_parts[ranking.video_ids.index("late")].sources
    scorer.candidates.set_video("late", False)
    assert "late" not in scorer.score([Request(["v1"])])[0].video_ids


def test_counts_of_what_was_dropped_and_renumbered_are_found(log: Log, bundle: Bundle) -> None:
    scorer = Scorer(bundle)
    signals = signals_before(log, len(log.kind), int(log.ts_ms[-1]))
    scorer.follow(signals)
    before = scorer.score([Request(["v1"])])
    kind = signals.kinds["video"]
    kept = kind.total.kept(np.arange(len(kind.total))[::-1], signals.now_ms)
    kind.total = kept
    after = scorer.score([Request(["v1"])])
    assert before[0].video_ids == after[0].video_ids
    np.testing.assert_allclose(before[0].video_scores, after[0].video_scores, atol=2e-5)


def test_counts_with_other_half_lives_are_refused(log: Log, bundle: Bundle, tmp_path: Path) -> None:
    live = section(log)
    odd = msgspec.structs.replace(live.tasks["video"], half_lives_ms=[5.0, 6.0])
    other = with_metrics(bundle, tmp_path / "odd", {}, LiveSection({"video": odd}, live.items))
    with pytest.raises(BundleError, match="half-life"):
        Scorer(other).follow(Signals())
