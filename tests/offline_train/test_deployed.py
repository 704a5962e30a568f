"""A bundle in the evaluation scores as the same bundle in serving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import Story

from model_runtime.bundle import Bundle, write_bundle
from model_runtime.scorer import Request, Scorer
from offline_train.corpus import Corpus, temporal_split
from offline_train.deployed import BundleScorer, check_horizon, history_config
from offline_train.evaluation import evaluate
from offline_train.log import Log
from offline_train.protocols import Protocols
from streams.history import EMPTY, HistoryConfig, apply

DIM, WINDOW = 4, 6

#: sums what a history holds, weighted by nothing: enough to show a wrong row or a wrong length
_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
sums (
    float[B,V,D] video_id, float[B,V,D] video_title, float[B,V,D] video_comment, int64[B] video_length,
    float[B,C,D] comment_id, float[B,C,D] comment_title, float[B,C,D] comment_text, int64[B] comment_length,
    float[B,D] query
) => (float[B,D] video_preference, float[B,D] comment_preference)
{
    axis = Constant <value = int64[1] {1}> ()
    videos = Sum (video_id, video_title, video_comment)
    comments = Sum (comment_id, comment_title, comment_text)
    video_sum = ReduceSum <keepdims = 0> (videos, axis)
    comment_sum = ReduceSum <keepdims = 0> (comments, axis)
    video_raw = Add (video_sum, bias)
    comment_raw = Sum (comment_sum, query, bias)
    video_length_2 = ReduceL2 <keepdims = 1> (video_raw, axis)
    comment_length_2 = ReduceL2 <keepdims = 1> (comment_raw, axis)
    video_preference = Div (video_raw, video_length_2)
    comment_preference = Div (comment_raw, comment_length_2)
}
"""


@pytest.fixture(scope="module")
def log() -> Log:
    story, random = Story(), np.random.default_rng(1)
    for i in range(7):
        story.video(f"v{i}", created=0)
    for i in range(20):
        story.comment(f"c{i}", f"v{i % 7}", created=0)
    for day in range(1, 90):
        comment = int(random.integers(20))
        story.view(f"u{day % 4}", f"v{random.integers(7)}", day)
        story.act(f"u{day % 4}", f"v{comment % 7}", f"c{comment}", day + 0.5)
    return Log.build(iter(story.catalog), iter(story.events), HistoryConfig(window=WINDOW, drop=2))


@pytest.fixture(scope="module")
def bundle(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Knows all of the log but v6, in another order, and a video of its own."""
    import onnx.parser
    from onnx import numpy_helper

    random = np.random.default_rng(2)
    videos = ["strange", *sorted((v for v in log.video_ids if v != "v6"), reverse=True)]
    comments = [c for c in reversed(log.comment_ids) if log.video_ids[log.comment_video[log.comment_index[c]]] != "v6"]
    tables = ("video_id_vectors", "video_title_vectors", "video_comment_vectors", "video_vectors")
    arrays = {name: random.normal(size=(len(videos), DIM)).astype(np.float32) for name in tables}
    arrays["video_vectors"] /= np.linalg.norm(arrays["video_vectors"], axis=1, keepdims=True)
    arrays["comment_vectors"] = random.normal(size=(len(comments), DIM)).astype(np.float32)
    under = (videos.index(log.video_ids[log.comment_video[log.comment_index[c]]]) for c in comments)
    arrays["comment_video"] = np.array(list(under), np.int32)
    graph = onnx.parser.parse_model(_GRAPH)
    graph.graph.initializer.append(numpy_helper.from_array(random.normal(size=DIM).astype(np.float32), "bias"))
    return write_bundle(
        tmp_path_factory.mktemp("bundles") / "b",
        model={"dim": DIM, "window": WINDOW},
        history={"window": WINDOW, "drop": 2},
        arrays=arrays,
        ids={"video_ids": videos, "comment_ids": comments},
        encoder=graph.SerializeToString(),
        version="test",
        training={"split": "temporal", "valid_ms": 50},
    )


@pytest.mark.parametrize("task", ["video", "comment"])
def test_scores_are_those_of_serving_for_the_state_that_the_worker_would_hold(
    log: Log, bundle: Bundle, task: str
) -> None:
    config = history_config(bundle)
    corpus = Corpus.build(log, config)
    scorer, serving = BundleScorer(bundle, log, corpus, task, threads=1), Scorer(bundle)
    chosen = np.flatnonzero(corpus.samples.kind == (task == "comment"))
    compared = 0
    for queries, _ in Protocols(log).batches(task, corpus.samples, chosen, rows=70):
        scores = scorer.scores(queries)
        for i in range(0, len(queries), 9):
            state = EMPTY
            for event in range(queries.event_index[i]):
                if log.user[event] == queries.user[i]:
                    state = apply(state, log.event(event), config)
            current = log.video_ids[queries.video[i]] if task == "comment" else None
            (ranking,) = serving.score(
                [Request(state.video.videos, state.comment.videos, state.comment.comments, current)]
            )
            if task == "video":
                mine = dict(zip(log.video_ids, scores[i], strict=True))
                served = dict(zip(ranking.video_ids, ranking.video_scores, strict=True))
                served.pop("strange", None)
            else:
                own = slice(queries.starts[i], queries.starts[i + 1])
                mine = dict(zip((log.comment_ids[c] for c in queries.comments[own]), scores[own], strict=True))
                served = dict(zip(ranking.comment_ids, ranking.comment_scores, strict=True))
            for name, score in served.items():
                assert mine[name] == pytest.approx(score, abs=1e-4)
                compared += 1
    assert compared > 20


def test_what_the_bundle_does_not_know_is_never_recommended(log: Log, bundle: Bundle) -> None:
    corpus = Corpus.build(log)
    scorer = BundleScorer(bundle, log, corpus, "video")
    ((queries, _), *_) = Protocols(log).batches("video", corpus.samples, np.flatnonzero(corpus.samples.kind == 0))
    scores = scorer.scores(queries)
    assert (scores[:, log.video_index["v6"]] == -np.inf).all()
    assert np.isfinite(np.delete(scores, log.video_index["v6"], axis=1)).all()
    assert scorer.unknown()["videos"] == 1


def test_a_bundle_goes_through_the_whole_evaluation(log: Log, bundle: Bundle) -> None:
    corpus = Corpus.build(log)
    scorers = [BundleScorer(bundle, log, corpus, task) for task in ("video", "comment")]
    results = evaluate(log, corpus, temporal_split(corpus), scorers, protocols=("full", "as-of"))
    assert {(r.task, r.protocol) for r in results} == {
        (task, protocol) for task in ("video", "comment") for protocol in ("full", "as-of")
    }
    assert all(0 <= value <= 1 for r in results for value in r.values.values() if r.counts["ranked"])


def test_a_bundle_that_learned_from_the_test_part_is_pointed_out(log: Log, bundle: Bundle, tmp_path: Path) -> None:
    split = temporal_split(Corpus.build(log))
    assert check_horizon(bundle, split) is None
    assert "too good" in str(check_horizon(bundle, replace(split, test_ms=10)))
    assert "leave-one-out" in str(check_horizon(bundle, replace(split, name="leave-one-out")))
