"""Each baseline on a log so small that the right ranking is known."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import DAY, Story
from hypothesis import given
from hypothesis import strategies as st

from offline_train.baselines import (
    ItemKNN,
    Newest,
    Popularity,
    Random,
    Scorer,
    TextProfile,
    Trending,
    VectorProfile,
    baselines,
)
from offline_train.corpus import Corpus
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import Protocols


def scores(log: Log, scorer: Scorer, user: str, which: int = -1) -> dict[str, float]:
    """Scores by id, for one user's `which`-th sample of the scorer's task."""
    samples = Corpus.build(log).samples
    kind = VIEW if scorer.task == "video" else INTERACTION
    mine = np.flatnonzero((samples.kind == kind) & (samples.user == log.user_index[user]))
    ((queries, _),) = Protocols(log).batches(scorer.task, samples, mine[[which]])
    values = scorer.scores(queries)
    if scorer.task == "video":
        return dict(zip(log.video_ids, values[0], strict=True))
    return {log.comment_ids[c]: value for c, value in zip(queries.comments, values, strict=True)}


def before(log: Log, day: float) -> np.ndarray:
    return log.ts_ms < day * DAY


def test_popularity_counts_engagements_of_training_and_stands_still() -> None:
    story = Story().view("a", "hit", 1).view("b", "hit", 2).view("a", "flop", 3).view("c", "flop", 3, watch_ms=500)
    log = story.view("a", "later", 11).view("b", "later", 12).view("c", "later", 13).log()
    assert scores(log, Popularity("video", log, before(log, 10)), "c") == {"hit": 2, "flop": 1, "later": 0}


def test_popularity_so_far_goes_on_with_the_stream() -> None:
    story = Story().view("a", "hit", 1).view("b", "hit", 2).view("a", "flop", 3)
    log = story.view("a", "later", 11).view("b", "later", 12).view("c", "later", 13).log()
    # the asked event itself is not counted
    assert scores(log, Trending("video", log, None), "c") == {"hit": 2, "flop": 1, "later": 2}


def test_trending_forgets_what_is_older_than_its_days() -> None:
    story = Story().view("a", "hit", 1).view("b", "hit", 2).view("a", "now", 25).view("b", "now", 31)
    log = story.view("c", "x", 31.5).log()
    assert scores(log, Trending("video", log, 30), "c") == {"hit": 1, "now": 2, "x": 0}
    assert scores(log, Trending("video", log, 5), "c") == {"hit": 0, "now": 1, "x": 0}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=25))
def test_trending_equals_a_recount_whatever_the_order_of_questions(events: list[tuple[int, int, int]]) -> None:
    story = Story()
    for user, video, day in events:
        story.view(f"u{user}", f"v{video}", day)
    log = story.log()
    samples = Corpus.build(log).samples
    protocols, scorer = Protocols(log), Trending("video", log, 30)
    for chosen in (np.arange(len(samples)), np.arange(len(samples))[::-1][:3]):
        for queries, _ in protocols.batches("video", samples, chosen, rows=4):
            for event, ts_ms, row in zip(queries.event_index, queries.ts_ms, scorer.scores(queries), strict=True):
                counted = (np.arange(log.events) < event) & (log.ts_ms >= ts_ms - 30 * DAY)
                assert row.tolist() == np.bincount(log.video[counted], minlength=len(log.video_ids)).tolist()


def test_item_knn_prefers_what_the_same_users_watched() -> None:
    story = Story()
    for user in ("a", "b"):  # war and peace go together; war is also watched alone, and so is fun
        story.view(user, "war", 1).view(user, "peace", 2)
    log = story.view("c", "war", 3).view("d", "fun", 3).view("me", "peace", 11).view("me", "war", 12).log()
    found = scores(log, ItemKNN(log, Corpus.build(log), before(log, 10)), "me")
    assert found["war"] == pytest.approx(2 / np.sqrt(3 * 2))
    assert found["peace"] == pytest.approx(0)  # not its own neighbour
    assert found["fun"] == 0


def test_item_knn_learns_nothing_after_training_and_nothing_from_an_empty_history() -> None:
    log = Story().view("a", "x", 1).view("a", "y", 11).view("b", "x", 12).view("b", "y", 13).log()
    knn = ItemKNN(log, Corpus.build(log), before(log, 10))
    assert scores(log, knn, "b") == pytest.approx({"x": 0, "y": 0})
    assert scores(log, knn, "a", 0) == {"x": 0, "y": 0}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=20), st.sampled_from([1.0, 2.0]))
def test_recent_item_knn_is_what_the_whole_matrix_gives(events: list[tuple[int, int]], half_life: float) -> None:
    story = Story()
    for day, (user, video) in enumerate(events):
        story.view(f"u{user}", f"v{video}", 1 + day)
    log = story.view("me", "v0", 50).view("me", "v1", 51).view("me", "v2", 52).view("me", "v3", 53).log()
    training = before(log, 40)
    x = np.zeros((len(log.user_ids), len(log.video_ids)))
    x[log.user[training], log.video[training]] = 1
    viewers, watched = np.maximum(x.sum(0), 1), np.maximum(x.sum(1), 1)
    similar = np.diag(viewers**-0.5) @ x.T @ np.diag(watched**-0.5) @ x @ np.diag(viewers**-0.25)
    np.fill_diagonal(similar, 0)
    places = [log.video_ids.index(f"v{i}") for i in range(3)]
    expected = 0.5 ** (np.array([2, 1, 0]) / half_life) @ similar[places]
    found = scores(log, ItemKNN(log, Corpus.build(log), training, half_life), "me")
    assert [found[video] for video in log.video_ids] == pytest.approx(expected.tolist())


def test_newest_ranks_by_age_and_what_does_not_exist_yet_comes_last() -> None:
    story = Story().video("old", created=1).video("young", created=5).video("unborn", created=90)
    log = story.view("a", "seen", 6).view("a", "young", 7).log()
    found = scores(log, Newest("video", log), "a")
    assert sorted(found, key=found.__getitem__) == ["unborn", "old", "young", "seen"]
    assert found["unborn"] == -np.inf


def test_newest_has_no_opinion_on_a_comment_that_is_being_written() -> None:
    story = Story().comment("a", "v", created=1).comment("mine", "v", created=4, by="me")
    log = story.act("me", "v", "mine", 4, "write").log()
    assert scores(log, Newest("comment", log), "me") == {"a": DAY, "mine": -np.inf}


def test_most_liked_counts_comments_and_not_mere_views_of_them() -> None:
    story = Story().act("a", "v", "good", 1).act("b", "v", "good", 2).act("a", "v", "seen", 3, "expand")
    log = story.act("a", "v", "late", 11).act("me", "v", "good", 12).log()
    assert scores(log, Popularity("comment", log, before(log, 10)), "me") == {"good": 2, "seen": 0, "late": 0}
    assert scores(log, Trending("comment", log, None), "me") == {"good": 2, "seen": 0, "late": 1}


def test_text_profile_prefers_what_reads_like_the_history() -> None:
    story = (
        Story().comment("h1", "v0", "great music").comment("h2", "v0", "loud music").comment("h3", "v0", "dull plot")
    )
    story.comment("music", "v1", "the music").comment("plot", "v1", "a dull plot").comment("none", "v1", "?!")
    story.act("me", "v0", "h1", 1).act("me", "v0", "h2", 2).act("other", "v0", "h3", 3)
    log = story.act("me", "v1", "plot", 12).log()
    profile = TextProfile(log, Corpus.build(log), before(log, 10))
    found = scores(log, profile, "me")
    assert found["music"] > found["plot"] == found["none"] == 0
    assert found["music"] <= 1 + 1e-9
    assert set(scores(log, profile, "me", 0).values()) == {0}  # no history yet: one tie


def test_text_profile_takes_its_words_from_training_alone() -> None:
    story = Story().comment("h1", "v0", "known").comment("x", "v1", "unheard").comment("y", "v1", "unheard known")
    log = story.act("me", "v0", "h1", 1).act("me", "v1", "x", 12).act("me", "v1", "y", 13).log()
    found = scores(log, TextProfile(log, Corpus.build(log), before(log, 10)), "me")
    assert found == pytest.approx({"x": 0, "y": 1})


def test_text_profile_without_any_comment_in_training_says_nothing() -> None:
    log = Story().comment("x", "v", "a").comment("y", "v", "b").act("me", "v", "x", 12).act("me", "v", "y", 13).log()
    assert set(scores(log, TextProfile(log, Corpus.build(log), before(log, 10)), "me").values()) == {0}


def test_a_profile_of_vectors_is_the_cosine_to_the_mean_of_ones_own() -> None:
    story = Story().comment("h1", "v0", "a").comment("h2", "v0", "b").comment("x", "v1", "c").comment("y", "v1", "d")
    log = story.act("me", "v0", "h1", 1).act("me", "v0", "h2", 2).act("me", "v1", "x", 12).log()
    vectors = np.zeros((len(log.comment_ids), 2), np.float32)
    for comment, vector in {"h1": (3, 0), "h2": (0, 0.5), "x": (0, 2), "y": (-1, 0)}.items():
        vectors[log.comment_index[comment]] = vector  # lengths don't count
    profile = VectorProfile(Corpus.build(log), vectors, "text profile (mine)")
    assert scores(log, profile, "me") == pytest.approx({"x": 0.5**0.5, "y": -(0.5**0.5)})
    assert set(scores(log, profile, "me", 0).values()) == {0}  # no history yet: one tie


def test_random_depends_on_its_seed_alone() -> None:
    log = Story().view("a", "x", 1).view("a", "y", 2).log()
    first, again, other = (scores(log, Random("video", log, seed), "a") for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("task", ["video", "comment"])
def test_every_baseline_of_a_task_is_there_once(task: str) -> None:
    log = Story().comment("c", "v", "text").view("a", "v", 1).act("a", "v", "c", 2).act("a", "v", "c", 3).log()
    every = baselines(task, log, Corpus.build(log), before(log, 10))
    names = [scorer.name for scorer in every]
    assert len(set(names)) == len(names)
    assert all(scorer.task == task for scorer in every)
    wanted = {
        "video": ("random", "popularity (all time)", "trending (30 days)", "item-kNN", "newest first"),
        "comment": ("random", "newest first", "most liked", "text profile (TF-IDF)"),
    }
    assert set(wanted[task]) <= set(names)
    for scorer in every:
        assert np.isfinite([v for v in scores(log, scorer, "a").values() if v != -np.inf]).all()
