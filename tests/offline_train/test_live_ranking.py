"""Live features as of a moment, and the function trained on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from handmade import DAY, Story

from model_runtime.live_features import PER_EVENT, is_time_feature
from offline_train.baselines import baselines
from offline_train.corpus import Corpus, temporal_split
from offline_train.deployed import LIVE_NAME
from offline_train.evaluation import evaluate, training_events
from offline_train.live_asof import AsOf
from offline_train.live_fitting import LiveConfig, fit_live
from offline_train.live_scorer import LiveScorer
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import Protocols, Queries

HALF_LIVES = (1.0 * DAY, 10.0 * DAY)
CONFIG = LiveConfig(half_lives_ms=(HALF_LIVES,), hidden=(0,))


@dataclass(frozen=True)
class Indifferent:
    """An SR to which everything is alike, with one axis per item as its text."""

    task: str
    log: Log

    def scores(self, queries: Queries) -> np.ndarray:
        shape = (len(queries), len(self.log.video_ids)) if self.task == "video" else (len(queries.comments),)
        return np.zeros(shape, np.float32)

    def known_videos(self) -> np.ndarray:
        return np.ones(len(self.log.video_ids), bool)

    def title_vectors(self) -> np.ndarray:
        return np.eye(len(self.log.video_ids), dtype=np.float32)

    def comment_vectors(self) -> np.ndarray:
        return np.eye(len(self.log.comment_ids), dtype=np.float32)

    def related(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(history) % 3), np.ones(len(history) % 3, np.float32)


@pytest.fixture(scope="module")
def fads() -> Log:
    """Everybody watches what came out in the last days and likes the comment that others like."""
    story, random = Story(), np.random.default_rng(3)
    for i in range(60):
        story.video(f"v{i}", created=2 * i)
        for j in range(5):
            story.comment(f"v{i}c{j}", f"v{i}", created=2 * i)
    for moment in range(900):
        day = 3 + moment / 8
        newest = int((day - 0.1) // 2)
        video = newest - int(random.integers(0, min(3, newest + 1)))
        story.view(f"u{random.integers(150)}", f"v{video}", day)
        story.act(f"u{random.integers(150)}", f"v{video}", f"v{video}c{video % 5}", day + 0.01)
    return story.log()


@pytest.mark.parametrize("task", ["video", "comment"])
def test_features_are_those_of_the_events_before_the_question(fads: Log, task: str) -> None:
    corpus = Corpus.build(fads)
    split = temporal_split(corpus)
    training = training_events(fads, corpus, split)
    kind = VIEW if task == "video" else INTERACTION
    rows = split.test[corpus.samples.kind[split.test] == kind][:40]
    asof = AsOf(Indifferent(task, fads), fads, corpus, training, HALF_LIVES)
    items = fads.video if task == "video" else fads.comment
    since = fads.first_seen_video if task == "video" else fads.first_seen_comment
    at = {name: i for i, name in enumerate(asof.names)}
    checked = 0
    for queries, _ in Protocols(fads).batches(task, corpus.samples, rows, rows=7):
        for asked in asof(queries):
            now = int(queries.ts_ms[asked.row])
            found = asked.places if task == "video" else queries.comments[asked.places]
            assert (since[found] < now).all()
            before = np.arange(queries.event_index[asked.row])
            mine = before[(fads.kind[before] == kind) & fads.engaged[before]]
            for item, features in zip(found, asked.features, strict=True):
                ages = now - fads.ts_ms[mine[items[mine] == item]]
                for k, half_life in enumerate(HALF_LIVES):
                    expected = np.log1p(PER_EVENT * np.sum(2.0 ** (-ages / half_life)))
                    assert features[at[f"recent_{k}"]] == pytest.approx(expected, abs=1e-4)
                assert features[at["age"]] == pytest.approx(np.log1p((now - since[item]) / DAY), abs=1e-4)
                assert features[at["base"]] == pytest.approx(np.log1p(np.sum(training[mine] & (items[mine] == item))))
                checked += 1
    assert checked > 100


def test_questions_asked_again_get_the_same_answer(fads: Log) -> None:
    corpus = Corpus.build(fads)
    split = temporal_split(corpus)
    rows = split.test[corpus.samples.kind[split.test] == VIEW][:20]
    asof = AsOf(Indifferent("video", fads), fads, corpus, training_events(fads, corpus, split), HALF_LIVES)
    (queries, _), *_ = Protocols(fads).batches("video", corpus.samples, rows)
    once, again = list(asof(queries)), list(asof(queries))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one.features, other.features, atol=1e-5)


@pytest.mark.train
@pytest.mark.parametrize("task", ["video", "comment"])
def test_where_only_what_is_alive_matters_it_is_learned(fads: Log, task: str) -> None:
    corpus = Corpus.build(fads)
    split = temporal_split(corpus)
    training = training_events(fads, corpus, split)
    sr = Indifferent(task, fads)
    choice = fit_live(sr, fads, corpus, split, CONFIG)
    assert choice is not None
    assert choice.live.time
    scorers = [*baselines(task, fads, corpus, training), LiveScorer(sr, choice.live, fads, corpus, training)]
    results = {(r.model, r.protocol): r for r in evaluate(fads, corpus, split, scorers)}
    reached = results[LIVE_NAME, "as-of"].values["ndcg@10"]
    assert reached > results["random", "as-of"].values["ndcg@10"] + 0.2
    best = max(r.values["ndcg@10"] for (m, p), r in results.items() if p == "as-of" and m != LIVE_NAME)
    assert reached > best - 0.05
    assert not results[LIVE_NAME, "full"].values
    assert "yet to come" in results[LIVE_NAME, "full"].note


@pytest.mark.train
def test_where_users_write_their_targets_no_feature_reads_a_clock() -> None:
    story, random = Story(), np.random.default_rng(5)
    for i in range(500):
        story.comment(f"c{i}", f"v{i % 8}", f"text {i}", i, f"u{i % 10}").view(f"u{i % 10}", f"v{i % 8}", i)
        story.act(f"u{i % 10}", f"v{i % 8}", f"c{i}", i + random.random() / 2, "write")
    log = story.log()
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    choice = fit_live(Indifferent("comment", log), log, corpus, split, CONFIG)
    assert choice is not None
    assert not choice.live.time
    assert not any(is_time_feature(name) for name in choice.live.blend.features)
    scorer = LiveScorer(Indifferent("comment", log), choice.live, log, corpus, training_events(log, corpus, split))
    (result,) = evaluate(log, corpus, split, [scorer])
    assert result.protocol == "full"
    assert result.values
