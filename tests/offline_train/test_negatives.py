"""Negatives of the comment task."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from offline_train.corpus import Corpus  # noqa: E402
from offline_train.log import INTERACTION, VIEW, Log  # noqa: E402
from offline_train.negatives import CommentNegatives  # noqa: E402
from streams.events import Comment, CommentInteraction  # noqa: E402

pytestmark = pytest.mark.train


def draw(corpus, rows, count=19, cutoff=10**12):
    samples = corpus.samples.take(rows)
    return samples, *CommentNegatives(corpus.log, cutoff).draw(samples, count, np.random.default_rng(0))


def test_negatives_are_others_of_the_same_video_that_were_there(data):
    corpus, _, _ = data
    log = corpus.log
    rows = np.flatnonzero(corpus.samples.kind == INTERACTION)
    samples, negatives, usable = draw(corpus, rows, count=5)
    assert (negatives != samples.target_comment[:, None]).all()
    assert (log.comment_video[negatives] == samples.target_video[:, None]).all()
    assert (log.first_seen_comment[negatives] <= samples.ts_ms[:, None]).all()
    texts = np.array(log.comment_texts, object)
    assert ((texts[negatives] != texts[samples.target_comment][:, None]) == usable).all()


def test_a_video_with_few_comments_gives_each_once(data):
    corpus, _, _ = data
    rows = np.flatnonzero(corpus.samples.kind == INTERACTION)[:20]
    samples, negatives, usable = draw(corpus, rows)
    same = corpus.log.comment_video[negatives] == samples.target_video[:, None]
    assert same[:, :7].all()
    assert not usable[:, 7:].any()
    for row in negatives[:, :7]:
        assert len(set(row)) == 7


def test_a_video_without_other_comments_gets_those_of_any_video():
    events = [CommentInteraction(f"e{i}", "u", f"v{i}", f"c{i}", 100 * i, "like") for i in range(10)]
    catalog = [Comment(f"c{i}", f"v{i}", f"text {i}") for i in range(10)]
    corpus = Corpus.build(Log.build(iter(catalog), iter(events)))
    _, negatives, usable = draw(corpus, np.array([6]))
    assert set(negatives[0]) <= set(range(7))
    assert usable[0].any()
    assert (usable[0] == (negatives[0] != 6)).all()


def test_where_the_target_is_written_later_comments_may_be_drawn():
    events = [CommentInteraction(f"e{i}", f"u{i}", "v", f"c{i}", 100 * i, "write") for i in range(10)]
    corpus = Corpus.build(Log.build(iter(()), iter(events)))
    _, negatives, _ = draw(corpus, np.array([0]), count=4, cutoff=500)
    assert set(negatives[0]) <= {1, 2, 3, 4}
    assert len(set(negatives[0])) > 1
    assert (corpus.samples.kind != VIEW).all()
