from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_model import Model, assert_ranked, brute_force, make_model

from model_runtime.bundle import BundleError
from model_runtime.ids import video_digest
from model_runtime.scorer import CHUNK, Ranking, Request, Scorer

#: float32 products of length 1/0.07, then rounding
TOLERANCE = 5e-5

# name: model, videos and comments at most
CASES: dict[str, tuple[Model, int, int]] = {
    "one video": (make_model(1, 0), 100, 50),
    "fewer than asked for": (make_model(30, 90, seed=1), 100, 50),
    "many equal scores": (make_model(60, 40, seed=2, repeat=7), 10, 3),
    "grouped search": (make_model(700, 2000, seed=3, repeat=2), 4, 2),
    # CRC-32 of these two names is the same
    "colliding digests": (make_model(12, 12, seed=4, names=["plumless", "buckeroo"]), 100, 50),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorer]:
    root = tmp_path_factory.mktemp("bundles")
    return {
        name: Scorer(model.write(root / str(i)), top_videos=videos, top_comments=comments)
        for i, (name, (model, videos, comments)) in enumerate(CASES.items())
    }


@pytest.fixture
def scorers(shared: dict[str, Scorer]) -> dict[str, Scorer]:
    for scorer in shared.values():
        revive(scorer)
    return shared


def revive(scorer: Scorer) -> None:
    scorer.candidates.set_all_videos(True)
    scorer.candidates.set_all_comments(True)


def requests_of(model: Model) -> st.SearchStrategy[Request]:
    video = st.sampled_from([*model.video_ids, "unknown video"])
    comment = st.sampled_from([*model.comment_ids, "unknown comment"])
    # longer than the window now and then
    pairs = st.lists(st.tuples(video, comment), max_size=model.window + 2)
    digest = st.one_of(video.map(video_digest), st.integers(0, 2**32 - 1))
    return st.builds(
        lambda videos, pairs, current, barred: Request(
            videos, [v for v, _ in pairs], [c for _, c in pairs], current, barred
        ),
        st.lists(video, max_size=model.window + 2),
        pairs,
        st.none() | video,
        st.lists(digest, max_size=12),
    )


def assert_same(one: Ranking, other: Ranking) -> None:
    """The same within 1e-5 (and the rounding to 5 decimals): items that close may swap places."""
    assert one.comment_video == other.comment_video
    for ids, scores, other_ids, other_scores in (
        (one.video_ids, one.video_scores, other.video_ids, other.video_scores),
        (one.comment_ids, one.comment_scores, other.comment_ids, other.comment_scores),
    ):
        assert len(ids) == len(other_ids)
        np.testing.assert_allclose(scores, other_scores, rtol=0, atol=2e-5)
        place = dict(zip(other_ids, other_scores, strict=True))
        for id_, score in zip(ids, scores, strict=True):
            assert abs(place.get(id_, other_scores[-1]) - score) <= 2e-5


@given(st.data())
def test_rankings_are_those_of_brute_force(shared: dict[str, Scorer], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(CASES)))
    model, top_videos, top_comments = CASES[name]
    scorer = shared[name]
    revive(scorer)
    requests = data.draw(st.lists(requests_of(model), min_size=1, max_size=5))
    dead_videos = data.draw(st.sets(st.sampled_from(model.video_ids), max_size=20))
    dead_comments = data.draw(st.sets(st.sampled_from(model.comment_ids or [""]), max_size=20))
    for video in dead_videos:
        scorer.candidates.set_video(video, False)
    for comment in dead_comments:
        scorer.candidates.set_comment(comment, False)
    rankings = scorer.score(requests)
    assert len(rankings) == len(requests)
    for request, ranking in zip(requests, rankings, strict=True):
        videos, comments = brute_force(model, request, dead_videos, dead_comments)
        assert_ranked(ranking.video_ids, ranking.video_scores, videos, top_videos, model.video_ids, TOLERANCE)
        assert_ranked(ranking.comment_ids, ranking.comment_scores, comments, top_comments, model.comment_ids, TOLERANCE)
        assert ranking.comment_video == request.current_video


@given(st.data())
def test_batch_mates_change_nothing(shared: dict[str, Scorer], data: st.DataObject) -> None:
    model, _, _ = CASES["fewer than asked for"]
    scorer = shared["fewer than asked for"]
    revive(scorer)
    requests = data.draw(st.lists(requests_of(model), min_size=1, max_size=2 * CHUNK + 3))
    together = scorer.score(requests)
    for request, ranking in zip(requests, together, strict=True):
        assert_same(scorer.score([request])[0], ranking)
    for ranking, again in zip(together, reversed(scorer.score(requests[::-1])), strict=True):
        assert_same(ranking, again)


def test_equal_scores_are_ranked_in_the_order_of_the_bundle(tmp_path: Path) -> None:
    model = make_model(50, 0, repeat=50)
    scorer = Scorer(model.write(tmp_path / "b"), top_videos=5)
    (ranking,) = scorer.score([Request(["v2"])])
    assert ranking.video_ids == ["v0", "v1", "v3", "v4", "v5"]
    assert len(set(ranking.video_scores)) == 1


def test_a_user_with_nothing_gets_a_finite_ranking(scorers: dict[str, Scorer]) -> None:
    (ranking,) = scorers["fewer than asked for"].score([Request()])
    assert len(ranking.video_ids) == 30
    assert np.isfinite(ranking.video_scores).all()
    assert (ranking.comment_video, ranking.comment_ids) == (None, [])


def test_barring_a_digest_bars_every_video_that_has_it(scorers: dict[str, Scorer]) -> None:
    assert video_digest("plumless") == video_digest("buckeroo")
    (ranking,) = scorers["colliding digests"].score([Request(barred=[video_digest("plumless")])])
    assert len(ranking.video_ids) == 10
    assert not {"plumless", "buckeroo"} & set(ranking.video_ids)


def test_a_user_who_has_seen_everything_gets_nothing(scorers: dict[str, Scorer]) -> None:
    model, _, _ = CASES["fewer than asked for"]
    request = Request(barred=[video_digest(v) for v in model.video_ids])
    (ranking,) = scorers["fewer than asked for"].score([request])
    assert (ranking.video_ids, ranking.video_scores) == ([], [])


def test_no_requests_no_rankings(scorers: dict[str, Scorer]) -> None:
    assert scorers["one video"].score([]) == []


def test_comment_columns_of_different_lengths_are_refused(scorers: dict[str, Scorer]) -> None:
    with pytest.raises(ValueError, match="same length"):
        scorers["fewer than asked for"].score([Request(comment_videos=["v1"], comment_ids=[])])


def test_removed_videos_stay_out_while_others_come_and_go(scorers: dict[str, Scorer]) -> None:
    scorer = scorers["grouped search"]
    candidates = scorer.candidates
    (before,) = scorer.score([Request(["v1"])])
    removed = set(before.video_ids)
    for video in removed:
        candidates.set_video(video, False)
    done = threading.Event()

    def toggle() -> None:
        while not done.is_set():
            for alive in (False, True):
                for i in range(0, 700, 3):
                    if f"v{i}" not in removed:
                        candidates.set_video(f"v{i}", alive)

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        for _ in range(30):
            (ranking,) = scorer.score([Request(["v1"])])
            assert len(ranking.video_ids) == 4
            assert not removed & set(ranking.video_ids)
    finally:
        done.set()
        thread.join()


def test_the_sample_tells_whether_this_machine_ranks_like_the_trainer(tmp_path: Path) -> None:
    model = make_model(40, 200, seed=5)
    request = Request(["v1", "v2", "nowhere"], ["v3"], ["c4"], "v7")
    expected = [
        [{"id": id_, "score": score} for id_, score in sorted(scores.items(), key=lambda item: -item[1])[:8]]
        for scores in brute_force(model, request)
    ]
    assert all(expected)
    sample = {
        "request": {"videos": ["v1", "v2", "nowhere"], "comments": [["v3", "c4"]], "current_video": "v7"},
        "videos": expected[0],
        "comments": expected[1],
    }
    good = model.write(tmp_path / "good", sample=[sample])
    assert Scorer(good).check_sample() == 1
    assert Scorer(good, top_videos=3, top_comments=1).check_sample() == 1
    for kind in ("videos", "comments"):
        items = sample[kind]
        off = [{**items[0], "score": items[0]["score"] + 0.01}, *items[1:]]
        swapped = [{**items[1], "score": items[0]["score"]}, {**items[0], "score": items[1]["score"]}, *items[2:]]
        too_many = [*items, *({"id": f"x{i}", "score": -99.0} for i in range(60))]
        for name, wrong in (("off", off), ("swapped", swapped), ("many", too_many)):
            scorer = Scorer(model.write(tmp_path / f"{kind}-{name}", sample=[{**sample, kind: wrong}]))
            with pytest.raises(BundleError, match=f"sample user 0, {kind}: "):
                scorer.check_sample()


def test_a_graph_that_turns_an_empty_history_into_nan_is_refused(tmp_path: Path) -> None:
    model = make_model(5, 5)
    model.weights["bias"][:] = 0  # the sum over an empty history is zero, and zero has no direction
    with pytest.raises(BundleError, match=r"encoder\.onnx: the video preference of a user with 0 videos and 0 comm"):
        Scorer(model.write(tmp_path / "b"))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    bundle = make_model(5, 5).write(tmp_path / "b", encoder=b"not a graph")
    with pytest.raises(BundleError, match=r"encoder\.onnx: .*export the model again"):
        Scorer(bundle)


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    import onnx.parser

    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[B] x) => (float[B] y) { y = Abs (x) }'
    )
    bundle = make_model(5, 5).write(tmp_path / "b", encoder=graph.SerializeToString())
    with pytest.raises(BundleError, match=r"its inputs are \{'x'"):
        Scorer(bundle)


def test_serving_imports_neither_torch_nor_the_layers_above() -> None:
    code = (
        "import sys, model_runtime.scorer, model_runtime.registry\n"
        "print([m for m in ('torch', 'onnx', 'faust', 'streams', 'offline_train', 'infra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
