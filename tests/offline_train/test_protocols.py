"""Candidates: who competes, and why a target may not be ranked."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import Story

from offline_train.corpus import Corpus, Samples
from offline_train.log import INTERACTION, VIEW, Log
from offline_train.protocols import PROTOCOLS, REASONS, SAMPLED, Candidates, Protocols, Queries, ragged


def ask(log: Log, task: str, user: str, day_rows: int = -1, **options: int) -> tuple[Protocols, Queries, np.ndarray]:
    """The question of one user's `day_rows`-th sample of a task."""
    samples = Corpus.build(log).samples
    kind = VIEW if task == "video" else INTERACTION
    mine = np.flatnonzero((samples.kind == kind) & (samples.user == log.user_index[user]))
    protocols = Protocols(log, **options)
    ((queries, target),) = protocols.batches(task, samples, mine[[day_rows]])
    return protocols, queries, target


def names(log: Log, queries: Queries, candidates: Candidates) -> set[str]:
    if queries.task == "video":
        return {log.video_ids[v] for v in np.flatnonzero(candidates.allowed[0])}
    return {log.comment_ids[c] for c in queries.comments[candidates.allowed]}


def reason(candidates: Candidates) -> str:
    return REASONS[candidates.reason[0]]


def films() -> Story:
    story = Story().video("old", created=0).video("unborn", created=90).video("target", created=2).video("clip")
    return story.view("other", "clip", 3).view("ann", "old", 4).act("ann", "clip", "c", 5, "view")


def test_as_of_videos_exist_before_the_event_and_are_not_seen() -> None:
    log = films().video("fresh", created=6).view("ann", "target", 7).log()
    protocols, queries, target = ask(log, "video", "ann")
    candidates = protocols.candidates("as-of", queries, target)
    # `old` was watched, and an interaction under `clip` means that it was seen too; `unborn` comes later.
    assert names(log, queries, candidates) == {"target", "fresh"}
    assert reason(candidates) == "ranked"
    full = protocols.candidates("full", queries, target)
    assert names(log, queries, full) == {"old", "unborn", "target", "clip", "fresh"}


def test_a_target_seen_before_is_counted_as_such_and_still_ranked_in_full() -> None:
    log = films().view("ann", "target", 7).view("ann", "target", 8).log()
    protocols, queries, target = ask(log, "video", "ann")
    assert reason(protocols.candidates("as-of", queries, target)) == "seen"
    assert reason(protocols.candidates("full", queries, target)) == "ranked"


def test_a_video_that_begins_with_the_event_is_new() -> None:
    log = films().view("ann", "surprise", 7).log()
    protocols, queries, target = ask(log, "video", "ann")
    assert reason(protocols.candidates("as-of", queries, target)) == "new"


def thread() -> Story:
    story = Story().comment("a", "film", "first", created=1).comment("b", "film", "second", created=2)
    return story.comment("late", "film", "third", created=50).comment("elsewhere", "other", "x", created=1)


def test_comments_compete_under_their_own_video_only() -> None:
    log = thread().comment("c", "film", created=3).act("ann", "film", "a", 4).act("ann", "film", "b", 5).log()
    protocols, queries, target = ask(log, "comment", "ann")
    assert names(log, queries, protocols.candidates("full", queries, target)) == {"a", "b", "c", "late"}
    as_of = protocols.candidates("as-of", queries, target)
    assert names(log, queries, as_of) == {"b", "c"}  # `a` was interacted with, `late` comes later
    assert log.comment_ids[queries.comments[target[0]]] == "b"


def test_an_event_that_names_another_video_is_asked_under_the_comments_own() -> None:
    log = thread().act("ann", "other", "b", 5).log()
    _, queries, target = ask(log, "comment", "ann")
    assert log.video_ids[queries.video[0]] == "film"
    assert log.comment_ids[queries.comments[target[0]]] == "b"


def test_a_comment_without_competition_is_alone() -> None:
    log = Story().comment("a", "film", created=1).act("ann", "film", "a", 4).log()
    protocols, queries, target = ask(log, "comment", "ann")
    for protocol in PROTOCOLS:
        assert reason(protocols.candidates(protocol, queries, target)) == "alone"


def test_a_comment_that_the_user_writes_now_is_new() -> None:
    # Its creation is even dated before the event: the writing itself says that it is new.
    log = thread().comment("mine", "film", "my view", created=3, by="ann").act("ann", "film", "mine", 4, "write").log()
    protocols, queries, target = ask(log, "comment", "ann")
    assert reason(protocols.candidates("as-of", queries, target)) == "new"
    assert reason(protocols.candidates("full", queries, target)) == "ranked"


def test_a_text_that_the_user_wrote_before_is_revealed() -> None:
    story = thread().comment("one", "other", "So  GOOD", by="ann").comment("two", "film", "so good", by="ann")
    story.act("ann", "other", "one", 3, "write").act("ann", "film", "two", 4, "write")
    log = story.log()
    protocols, queries, target = ask(log, "comment", "ann")
    assert reason(protocols.candidates("full", queries, target)) == "revealed"
    protocols, queries, target = ask(log, "comment", "ann", 0)
    assert reason(protocols.candidates("full", queries, target)) == "ranked"


def test_liking_the_same_text_again_is_taste_and_not_revealed() -> None:
    story = Story().comment("one", "other", "funny", created=1).comment("two", "film", "funny", created=1)
    log = story.comment("x", "film", created=1).act("ann", "other", "one", 3).act("ann", "film", "two", 4).log()
    protocols, queries, target = ask(log, "comment", "ann")
    assert reason(protocols.candidates("full", queries, target)) == "ranked"


@pytest.mark.parametrize("task", ["video", "comment"])
def test_sampled_draws_a_hundred_with_the_target_and_the_same_ones_again(task: str) -> None:
    story = Story()
    for i in range(3 * SAMPLED):
        story.video(f"v{i}", created=0).comment(f"c{i}", "v0", created=0)
    log = story.view("ann", "v1", 1).view("ann", "v2", 2).act("ann", "v0", "c7", 3).log()
    drawn = []
    for seed in (0, 0, 1):
        protocols, queries, target = ask(log, task, "ann", seed=seed)
        candidates = protocols.candidates("sampled", queries, target)
        allowed = candidates.allowed[0] if task == "video" else candidates.allowed
        assert allowed.sum() == SAMPLED
        assert allowed[target[0]]
        drawn.append(names(log, queries, candidates))
    assert drawn[0] == drawn[1] != drawn[2]
    if task == "video":
        assert "v1" not in drawn[0]  # seen


def test_few_candidates_are_all_taken_by_sampled() -> None:
    log = films().view("ann", "target", 7).log()
    protocols, queries, target = ask(log, "video", "ann")
    assert names(log, queries, protocols.candidates("sampled", queries, target)) == {"target", "unborn"}


def test_batches_are_bounded_ordered_and_complete() -> None:
    story = Story()
    for user in ("ann", "bob", "cem"):
        for i in range(5):
            story.comment(f"{user}{i}", f"v{i}", created=0).act(user, f"v{i}", f"{user}{i}", 1 + i)
            story.view(user, f"v{i}", 2 + i)
    log = story.log()
    samples: Samples = Corpus.build(log).samples
    for task, kind, size in (("video", VIEW, 5), ("comment", INTERACTION, 3)):
        chosen = np.flatnonzero(samples.kind == kind)[::-1]
        batches = list(Protocols(log).batches(task, samples, chosen, rows=2, cells=2 * size))
        assert [len(queries) for queries, _ in batches] == [2] * 7 + [1]
        asked = np.concatenate([queries.event_index for queries, _ in batches])
        assert asked.tolist() == sorted(samples.event_index[chosen].tolist())


def test_an_unknown_protocol_is_refused_by_name() -> None:
    log = films().view("ann", "target", 7).log()
    protocols, queries, target = ask(log, "video", "ann")
    with pytest.raises(ValueError, match="known: sampled, full, as-of"):
        protocols.candidates("half", queries, target)


def test_ragged_lays_ranges_end_to_end() -> None:
    flat, starts = ragged(np.array([3, 7, 7]), np.array([5, 7, 8]))
    assert flat.tolist() == [3, 4, 7]
    assert starts.tolist() == [0, 2, 2, 3]
