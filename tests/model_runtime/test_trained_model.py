"""Serving gives what PyTorch gives: a tiny SR, exported and scored both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.bundle import Bundle
from model_runtime.ids import video_digest
from model_runtime.scorer import Request, Scorer
from streams.events import Comment, CommentInteraction, Video, VideoView
from streams.history import HistoryConfig

if TYPE_CHECKING:
    from offline_train.reference import Reference

pytestmark = pytest.mark.train

VIDEOS = [f"v{i}" for i in range(30)]
COMMENTS = [f"c{i}" for i in range(120)]
WINDOW = 12
#: the promise: the same items, scores within this of PyTorch's
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Reference]:
    # Here and not above: collecting the tests must not take the seconds that importing PyTorch does.
    pytest.importorskip("torch")
    from offline_train.corpus import Corpus, temporal_split
    from offline_train.export import export
    from offline_train.finetuning import finetune
    from offline_train.finetuning_config import FinetuneConfig
    from offline_train.log import Log
    from offline_train.reference import Reference
    from offline_train.text import text_vectors

    rng = np.random.default_rng(0)
    words = ["storm", "harbour", "violin", "glacier", "copper", "orchard", "signal", "meadow", "lantern", "canyon"]

    def text() -> str:
        return " ".join(rng.choice(words, 4))

    catalog = [Video(v, text(), created_ms=0) for v in VIDEOS]
    catalog += [Comment(c, VIDEOS[i % 30], text(), created_ms=0) for i, c in enumerate(COMMENTS)]
    events: list[VideoView | CommentInteraction] = []
    for i in range(300):
        at, user, comment = i * 3_600_000, f"u{i % 9}", int(rng.integers(120))
        events.append(VideoView(f"e{2 * i}", user, VIDEOS[rng.integers(30)], at, 60_000))
        events.append(
            CommentInteraction(f"e{2 * i + 1}", user, VIDEOS[comment % 30], COMMENTS[comment], at + 1, "like")
        )
    config = HistoryConfig(window=WINDOW, drop=4)
    log = Log.build(iter(catalog), iter(events), config)
    corpus = Corpus.build(log, config)
    split = temporal_split(corpus)
    texts = text_vectors(log, cutoff_ms=split.valid_ms)
    finetuned = finetune(corpus, split, texts, FinetuneConfig(epochs=1, epoch_samples=256, threads=1))
    bundle = export(finetuned, corpus, split, texts, tmp_path_factory.mktemp("trained") / "bundle")
    return Scorer(Bundle.open(bundle.path), top_videos=10, top_comments=3), Reference.of(finetuned, corpus)


def test_the_exported_sample_is_met(trained: tuple[Scorer, Reference]) -> None:
    scorer, _ = trained
    assert scorer.check_sample(TOLERANCE) == len(scorer.bundle.sample) > 1


_video = st.sampled_from([*VIDEOS, "unknown video"])
_pairs = st.lists(st.tuples(_video, st.sampled_from([*COMMENTS, "unknown comment"])), max_size=WINDOW + 2)
_requests = st.builds(
    lambda videos, pairs, current, barred: Request(
        videos, [v for v, _ in pairs], [c for _, c in pairs], current, barred
    ),
    st.lists(_video, max_size=WINDOW + 2),
    _pairs,
    st.none() | _video,
    st.lists(_video.map(video_digest), max_size=8),
)


@settings(max_examples=40)
@given(st.lists(_requests, min_size=1, max_size=6))
def test_serving_ranks_as_pytorch_does(trained: tuple[Scorer, Reference], requests: list[Request]) -> None:
    from offline_train.reference import ReferenceRequest

    scorer, reference = trained
    expected = reference.rank(
        [
            ReferenceRequest(
                list(r.videos), list(r.comment_videos), list(r.comment_ids), r.current_video, list(r.barred)
            )
            for r in requests
        ],
        top_videos=len(VIDEOS),
        top_comments=len(COMMENTS),
    )
    for ranking, wanted in zip(scorer.score(requests), expected, strict=True):
        for ids, scores, all_items, top in (
            (ranking.video_ids, ranking.video_scores, wanted.videos, 10),
            (ranking.comment_ids, ranking.comment_scores, wanted.comments, 3),
        ):
            assert len(ids) == min(top, len(all_items))
            # The scores by place, and each item's own: together, items of nearly the same score may swap, others not.
            np.testing.assert_allclose(scores, [score for _, score in all_items[:top]], rtol=0, atol=TOLERANCE)
            own = dict(all_items)
            np.testing.assert_allclose(scores, [own[id_] for id_ in ids], rtol=0, atol=TOLERANCE)
