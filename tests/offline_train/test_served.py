"""In the evaluation two bundles stand as workers serve them: late texts by the student, live signals added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.random_sr import write_random_sr
from test_live_serving import COMMENTS, VIDEOS, WINDOW, bundle, questions  # noqa: F401
from test_live_serving import log as untitled  # noqa: F401

from model_runtime.arrivals import Arrivals, CommentEntry, VideoEntry
from model_runtime.bundle import Bundle
from model_runtime.scorer import Request, Scorer
from model_runtime.text import Student
from offline_train.corpus import Corpus, temporal_split
from offline_train.deployed import BundleScorer
from offline_train.evaluation import evaluate, training_events
from offline_train.live_scorer import LiveScorer
from offline_train.log import Log
from offline_train.protocols import Queries
from offline_train.served import served_scorers

pytestmark = pytest.mark.train

KNOWN = 500  # videos that the older bundle knows; it has no comments of the others


@pytest.fixture(scope="module")
def log(untitled: Log) -> Log:  # noqa: F811
    """A worker knows what has a text in the catalog."""
    titles = [f"the film {name}" for name in untitled.video_ids]
    return replace(untitled, video_titles=titles, comment_texts=[f"I say {name}" for name in untitled.comment_ids])


class Encoder:
    """A vector of each text, always the same one."""

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        return np.array(
            [np.random.default_rng(len(t) + sum(t.encode())).normal(size=16) / 4 for t in texts], np.float32
        )


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    plain = write_random_sr(tmp_path_factory.mktemp("older") / "b", videos=KNOWN, comments=KNOWN, window=WINDOW, drop=3)
    return replace(plain, student=cast(Student, Encoder()))


def request(log: Log, corpus: Corpus, queries: Queries, i: int) -> Request:
    records = slice(queries.comment_start[i], queries.comment_end[i])
    return Request(
        [log.video_ids[v] for v in corpus.videos[queries.video_start[i] : queries.video_end[i]]],
        [log.video_ids[v] for v in corpus.comment_videos[records]],
        [log.comment_ids[c] for c in corpus.comments[records]],
        log.video_ids[queries.video[i]] if queries.video[i] >= 0 else None,
    )


@pytest.mark.parametrize("kind", ["video", "comment"])
def test_what_training_did_not_know_scores_as_in_a_worker_that_read_the_catalog(
    log: Log,
    older: Bundle,
    kind: str,
) -> None:
    corpus = Corpus.build(log)
    (scorer,) = (s for s in served_scorers(older, log, corpus, temporal_split(corpus)) if s.task == kind)
    serving = Scorer(older, top_videos=VIDEOS, top_comments=COMMENTS)
    arrivals = Arrivals(serving.candidates)
    arrivals.apply([VideoEntry(f"v{i}", log.video_titles[log.video_index[f"v{i}"]]) for i in range(VIDEOS)])
    texts = (log.comment_texts[log.comment_index[f"c{i}"]] for i in range(COMMENTS))
    arrivals.apply([CommentEntry(f"c{i}", text, f"v{i % VIDEOS}") for i, text in enumerate(texts)])
    queries = questions(log, kind, 12)
    scores = np.asarray(scorer.scores(queries))
    assert np.isfinite(scores).all()
    late = 0
    for i in range(len(queries)):
        (ranking,) = serving.score([request(log, corpus, queries, i)])
        if kind == "video":
            mine = dict(zip(log.video_ids, scores[i], strict=True))
            served = dict(zip(ranking.video_ids, ranking.video_scores, strict=True))
        else:
            own = slice(queries.starts[i], queries.starts[i + 1])
            mine = dict(zip((log.comment_ids[c] for c in queries.comments[own]), scores[own], strict=True))
            served = dict(zip(ranking.comment_ids, ranking.comment_scores, strict=True))
        for name, score in served.items():
            assert mine[name] == pytest.approx(score, abs=1e-4)
            late += int(name[1:]) >= KNOWN
    assert late > (1000 if kind == "video" else 3)


def test_without_a_student_what_training_did_not_know_cannot_be_recommended(log: Log, older: Bundle) -> None:
    corpus = Corpus.build(log)
    mute = replace(older, student=None)
    video, _ = served_scorers(mute, log, corpus, temporal_split(corpus))
    known = np.array([int(name[1:]) < KNOWN for name in log.video_ids])
    scores = np.asarray(video.scores(questions(log, "video", 3)))
    assert np.isfinite(scores[:, known]).all()
    assert (scores[:, ~known] == -np.inf).all()


@pytest.mark.parametrize("kind", ["video", "comment"])
def test_live_signals_are_added_from_what_the_bundle_counted_in_its_own_training(
    log: Log,
    bundle: Bundle,  # noqa: F811
    kind: str,
) -> None:
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    assert bundle.live is not None
    training = training_events(log, corpus, split)
    own = LiveScorer(BundleScorer(bundle, log, corpus, kind), bundle.live.tasks[kind], log, corpus, training)
    queries = questions(log, kind, 4)
    (scorer,) = (s for s in served_scorers(bundle, log, corpus, split) if s.task == kind)
    assert scorer.name == bundle.version
    np.testing.assert_allclose(scorer.scores(queries), own.scores(queries), atol=1e-5)
    twice = {kind: replace(items, base=items.base * 2) for kind, items in bundle.live.items.items()}
    other = replace(bundle, live=replace(bundle.live, items=twice))
    (changed,) = (s for s in served_scorers(other, log, corpus, split) if s.task == kind)
    assert not np.allclose(changed.scores(queries), own.scores(queries), atol=1e-5)


def test_two_bundles_are_compared_on_the_same_targets(log: Log, bundle: Bundle, older: Bundle) -> None:  # noqa: F811
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    scorers: list[Any] = [
        scorer
        for name, model in (("new", bundle), ("old", older))
        for scorer in served_scorers(model, log, corpus, split, name=name)
    ]
    found = {(r.task, r.protocol, r.model): r for r in evaluate(log, corpus, split, scorers)}
    for task in ("video", "comment"):
        new, old = found[task, "as-of", "new"], found[task, "as-of", "old"]
        assert new.values
        assert new.counts == old.counts
        assert len(new.ranks) == len(old.ranks) > 0
