"""What a batch shows."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tastes  # noqa: E402

from offline_train.batches import (  # noqa: E402
    Gatherer,
    ItemTables,
    comment_authors,
    popular_comments,
    preferences,
)
from offline_train.corpus import Corpus, leave_one_out, temporal_split  # noqa: E402
from offline_train.finetuning_losses import interacted  # noqa: E402
from offline_train.log import INTERACTION, Log  # noqa: E402
from offline_train.sr import SR, SRConfig  # noqa: E402
from offline_train.text import text_vectors  # noqa: E402
from streams.events import Comment, CommentInteraction, Video, VideoView  # noqa: E402

pytestmark = pytest.mark.train


def story():
    """`first` and `second` of v0 and v1; u is the author of `first`, which is the popular one of v0."""
    catalog = [
        Video("v0", "zero"),
        Video("v1", "one"),
        Comment("first", "v0", "mine", user_id="u", created_ms=1),
        Comment("second", "v1", "theirs", user_id="w", created_ms=5000),
    ]
    events = [
        VideoView("a", "u", "v0", 100, 20_000),
        VideoView("a2", "w", "v0", 110, 20_000),
        CommentInteraction("b", "w", "v0", "first", 120, "like"),
        VideoView("c", "u", "v1", 200, 20_000),
        VideoView("c2", "w", "v1", 210, 20_000),
        CommentInteraction("d", "u", "v1", "second", 6000, "like"),
        CommentInteraction("e", "w", "v1", "second", 7000, "like"),
        VideoView("f", "u", "v2", 9000, 20_000),
        VideoView("g", "u", "v3", 9500, 20_000),
    ]
    corpus = Corpus.build(Log.build(iter(catalog), iter(events)))
    split = dataclasses.replace(temporal_split(corpus), valid_ms=8000)
    return corpus, split


def shown(corpus, split, event, training):
    tables = ItemTables.build(
        text_vectors(corpus.log), popular_comments(corpus.log, corpus, split), corpus.log.first_seen_video
    )
    row = np.flatnonzero(corpus.samples.event_index == corpus.log.event_ids.index(event))
    batch = Gatherer(corpus, tables).batch(corpus.samples.take(row), training=training)
    names = [*corpus.log.comment_ids, None]
    return [names[c] for c in batch.video_comment[0][: batch.video_length[0]]]


def test_popular_comments_come_from_the_training_period():
    corpus, split = story()
    popular = popular_comments(corpus.log, corpus, split)
    names = [*corpus.log.comment_ids, None]
    assert [names[c] for c in popular] == ["first", "second", None, None]
    early = popular_comments(corpus.log, corpus, dataclasses.replace(split, valid_ms=4000))
    assert [names[c] for c in early] == ["first", None, None, None]


def test_in_training_nobody_is_shown_their_own_comment():
    corpus, split = story()
    assert shown(corpus, split, "c", training=True) == [None]
    assert shown(corpus, split, "c2", training=True) == ["first"]


def test_in_training_a_comment_is_not_shown_before_it_existed():
    corpus, split = story()
    assert shown(corpus, split, "d", training=True) == [None, "second"]
    second = dataclasses.replace(corpus, samples=corpus.samples)
    second.log.first_seen_comment[1] = 6000  # as if the target's own event had brought it
    assert shown(second, split, "d", training=True) == [None, None]


def test_later_samples_are_shown_what_serving_shows():
    corpus, split = story()
    assert shown(corpus, split, "g", training=False) == ["first", "second", None]


def test_leave_one_out_counts_no_held_out_event():
    log = tastes.log()
    corpus = Corpus.build(log)
    split = leave_one_out(corpus)
    popular = popular_comments(log, corpus, split)
    held = np.concatenate((split.valid, split.test))
    engaged = (log.kind == INTERACTION) & log.engaged
    engaged[corpus.samples.event_index[held]] = False
    count = np.bincount(log.comment[engaged], minlength=len(log.comment_ids))
    for video, comment in enumerate(popular):
        if comment >= 0:
            assert count[comment] == count[log.comment_video == video].max()


def test_an_author_is_known_from_the_event_of_writing():
    log = Log.build(iter(()), iter([CommentInteraction("e", "u", "v", "c", 1, "write")]))
    assert comment_authors(log).tolist() == [0]


def test_only_videos_of_training_samples_have_an_id(data):
    corpus, split, _ = data
    known = interacted(corpus, split).astype(bool)
    assert set(np.flatnonzero(known)) == set(corpus.samples.target_video[split.train])


def test_an_unknown_video_and_no_comment_are_zero_vectors(data):
    corpus, _, texts = data
    tables = ItemTables.build(texts, np.full(len(texts.video), -1), corpus.log.first_seen_video)
    assert not tables.comments[tables.popular].any()
    model = SR(SRConfig(len(corpus.log.video_ids), dim=16, feedforward=32, layers=1)).eval()
    row = corpus.samples.take(np.array([50]))
    batch = Gatherer(corpus, tables).batch(row, training=False)
    unknown = dataclasses.replace(batch, current=torch.tensor([len(corpus.log.video_ids)]))
    assert all(torch.isfinite(p).all() for p in preferences(model, tables, unknown))
