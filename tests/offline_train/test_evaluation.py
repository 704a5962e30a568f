"""The evaluation from a log to figures."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import DAY, Story

from offline_train.baselines import Newest, Popularity, Random, baselines
from offline_train.corpus import Corpus, Split, leave_one_out, temporal_split
from offline_train.evaluation import evaluate, targets_are_new, training_events
from offline_train.log import Log
from offline_train.protocols import Queries


def world(action: str = "like") -> Log:
    """Six users watch and comment for forty days."""
    story, random = Story(), np.random.default_rng(5)
    for i in range(8):
        story.video(f"v{i}", f"film {i}", created=0)
    for day in range(1, 41):
        user, video = f"u{day % 6}", f"v{random.integers(8)}"
        story.view(user, video, day)
        if action == "write":
            story.comment(f"c{day}", video, f"view {day}", created=day + 0.1, by=user)
            story.act(user, video, f"c{day}", day + 0.1, action)
        else:
            story.comment(f"c{day}", video, f"view {day}", created=day - 0.5)
            story.act(user, video, f"c{day}", day + 0.1, action)
    return story.log()


class Oracle:
    """Knows the answers, in the order in which they are asked."""

    name = "oracle"

    def __init__(self, task: str, log: Log) -> None:
        self.task, self.log = task, log

    def scores(self, queries: Queries) -> np.ndarray:
        if self.task == "video":
            answer = np.asarray(self.log.video)[queries.event_index]
            return (np.arange(len(self.log.video_ids)) == answer[:, None]).astype(float)
        return (queries.comments == np.asarray(self.log.comment)[queries.event_index][queries.row]).astype(float)


class Broken(Oracle):
    name = "broken"

    def scores(self, queries: Queries) -> np.ndarray:
        return super().scores(queries)[..., :-1]


@pytest.mark.parametrize("task", ["video", "comment"])
def test_an_oracle_has_ones_everywhere_and_every_target_is_accounted_for(task: str) -> None:
    log = world()
    corpus = Corpus.build(log)
    split = temporal_split(corpus, 0.4, 0.1)
    results = evaluate(log, corpus, split, [Oracle(task, log)], protocols=("sampled", "full", "as-of"))
    assert [r.protocol for r in results] == ["sampled", "full", "as-of"]
    kinds = corpus.samples.kind[split.test]
    for result in results:
        assert set(result.values.values()) == {1.0}
        assert result.counts["ranked"] > 0
        assert sum(result.counts.values()) == np.count_nonzero(kinds == (task == "comment"))


def test_the_batch_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from offline_train.protocols import Protocols

    log = world()
    corpus = Corpus.build(log)
    split = temporal_split(corpus, 0.4, 0.1)
    training = training_events(log, corpus, split)

    def figures() -> list[dict[str, float]]:
        scorers = [s for task in ("video", "comment") for s in baselines(task, log, corpus, training)[1:]]
        return [r.values for r in evaluate(log, corpus, split, scorers)]

    whole = figures()
    batches = Protocols.batches
    monkeypatch.setattr(Protocols, "batches", lambda *args: batches(*args, rows=3))
    for one, other in zip(whole, figures(), strict=True):
        assert one == pytest.approx(other)


def test_scorers_that_share_a_name_have_results_of_their_own() -> None:
    log = world()
    corpus = Corpus.build(log)
    split = temporal_split(corpus, 0.4, 0.1)
    several = [Random("video", log, seed) for seed in range(3)]
    alone = [evaluate(log, corpus, split, [Random("video", log, seed)], protocols=("full",))[0] for seed in range(3)]
    together = evaluate(log, corpus, split, several, protocols=("full",))
    assert [r.values for r in together] == [r.values for r in alone]
    assert len({r.values["ndcg@5"] for r in together}) == 3


def test_where_comments_are_written_only_full_stands_and_newest_first_is_called_a_leak() -> None:
    log = world("write")
    corpus = Corpus.build(log)
    split = temporal_split(corpus, 0.4, 0.1)
    assert targets_are_new(log, corpus, split.test)
    scorers = [Random("comment", log, 0), Newest("comment", log), Newest("video", log)]
    results = {(r.task, r.protocol, r.model): r for r in evaluate(log, corpus, split, scorers)}
    assert set(results) == {
        ("comment", "full", "random"),
        ("comment", "full", "newest first"),
        ("video", "full", "newest first"),
        ("video", "as-of", "newest first"),
    }
    leak = results["comment", "full", "newest first"]
    assert not leak.values
    assert "leak" in leak.note
    assert results["comment", "full", "random"].values
    assert not targets_are_new(world(), Corpus.build(world()), split.test)


def test_training_events_end_where_validation_begins() -> None:
    log = world()
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    training = training_events(log, corpus, split)
    assert log.ts_ms[training].max() < split.valid_ms <= log.ts_ms[~training].min()


def test_training_events_of_leave_one_out_end_at_each_users_first_held_out_event() -> None:
    log = world()
    corpus = Corpus.build(log)
    split = leave_one_out(corpus)
    training = training_events(log, corpus, split)
    held = corpus.samples.event_index[np.concatenate([split.valid, split.test])]
    for user in range(len(log.user_ids)):
        mine = np.flatnonzero(log.user == user)
        first = min(e for e in held if log.user[e] == user)
        assert training[mine].tolist() == [e < first for e in mine]


def test_leave_one_out_ranks_one_target_per_user_and_task() -> None:
    log = world()
    corpus = Corpus.build(log)
    split = leave_one_out(corpus)
    (result,) = evaluate(log, corpus, split, [Random("video", log, 0)], protocols=("full",))
    assert sum(result.counts.values()) == len(log.user_ids)
    assert result.split == "leave-one-out"


def test_limit_takes_targets_evenly_and_progress_reaches_the_end() -> None:
    log = world()
    corpus = Corpus.build(log)
    split = temporal_split(corpus, 0.4, 0.1)
    seen: list[tuple[int, int]] = []
    scorer = Popularity("video", log, training_events(log, corpus, split))
    (result,) = evaluate(
        log,
        corpus,
        split,
        [scorer],
        protocols=("full",),
        limit=5,
        advance=lambda done, total: seen.append((done, total)),
    )
    assert result.counts["ranked"] == 5
    assert seen[-1] == (5, 5)


def test_scores_of_a_wrong_shape_are_refused_with_the_scorers_name() -> None:
    log = world()
    corpus = Corpus.build(log)
    with pytest.raises(ValueError, match="broken gave scores of shape"):
        evaluate(log, corpus, temporal_split(corpus), [Broken("video", log)])


def test_a_part_without_targets_gives_no_figures_and_no_error() -> None:
    log = Story().view("a", "x", 1).view("a", "y", 2).view("a", "z", 3).log()
    corpus = Corpus.build(log)
    split = Split("temporal", np.array([0]), np.array([1]), np.zeros(0, int), 2 * DAY, 3 * DAY)
    (result,) = evaluate(log, corpus, split, [Random("video", log, 0)], protocols=("full",))
    assert result.counts["ranked"] == 0
    assert np.isnan(result.values["ndcg@10"])
