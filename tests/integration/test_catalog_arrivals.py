"""New and changed titles and comments, seen from outside: a live worker recommends them by their text, at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.live_platform import BUNDLE, STAGE, VIDEO_OF, VIDEOS, Platform, view
from support.outcome import last_lists
from support.whole_path import wait_until_catalog_read, wait_until_committed
from support.worker_process import WorkerProcess

from model_runtime.arrivals import Arrivals, CommentEntry, Entry, VideoEntry
from model_runtime.bundle import Bundle
from model_runtime.scorer import Request, Scorer
from streams.events import Comment, CommentInteraction, Video

pytestmark = pytest.mark.integration

#: two of the simulator's topics, in its words
BAKING, TRAVEL = "How to bread dough yeast baking", "Flight, train and passport travel"

#: a video with one comment
QUIET = next(video for video in VIDEOS if list(VIDEO_OF.values()).count(video) == 1)


def nearest(text: str, count: int) -> list[str]:
    """The bundle's videos whose titles are nearest to a text."""
    assert BUNDLE.student is not None
    titles = BUNDLE.video_title_vectors
    cosines = titles @ BUNDLE.student.encode([text])[0] / np.maximum(np.linalg.norm(titles, axis=1), 1e-9)
    return [VIDEOS[at] for at in np.argsort(-cosines)[:count]]


def expected(platform: Platform, request: Request, *entries: Entry) -> tuple[list[str], list[str]]:
    """What a scorer gives that has taken in the same entries."""
    scorer = Scorer(Bundle.open(platform.bundle))
    assert Arrivals(scorer.candidates).apply(entries) == []
    (ranking,) = scorer.score([request])
    return ranking.video_ids, ranking.comment_ids


@pytest.fixture
def platform(fresh_topics: str, redis_url: str, tmp_path: Path) -> Platform:
    return Platform(fresh_topics, redis_url, tmp_path)


@pytest.fixture
def worker(platform: Platform) -> Iterator[WorkerProcess]:
    with platform.worker() as running:
        running.wait_ready()
        platform.publish_catalog()
        wait_until_catalog_read(running, platform.bootstrap)
        assert running.metric("lsvcr_catalog_encoded_total") == 0
        yield running


def test_a_new_video_is_in_the_list_of_whoever_likes_its_kind(platform: Platform, worker: WorkerProcess) -> None:
    history = [video for video in nearest(BAKING, 4) if video != STAGE][:3]
    before, _ = platform.lists_after(*(view("u", video) for video in history))
    platform.publish(Video("bake", BAKING, created_ms=1), Video("fly", TRAVEL), Comment("fresh", STAGE, TRAVEL))
    wait_until_catalog_read(worker, platform.bootstrap)
    videos, comments = platform.lists_after()
    entries = VideoEntry("bake", BAKING), VideoEntry("fly", TRAVEL), CommentEntry("fresh", TRAVEL, STAGE)
    assert (videos, comments) == expected(platform, Request(history, current_video=STAGE), *entries)
    assert "bake" in videos
    assert "fly" not in videos
    assert [video for video in videos if video != "bake"] == before[:-1]
    assert worker.metric("lsvcr_catalog_unknown_total") == 0

    # Another title: another taste. Then it is gone.
    platform.publish(Video("bake", TRAVEL))
    wait_until_catalog_read(worker, platform.bootstrap)
    assert (
        platform.lists_after()[0] == expected(platform, Request(history), *entries[1:], VideoEntry("bake", TRAVEL))[0]
    )
    platform.remove(video="bake", comment="fresh")
    wait_until_catalog_read(worker, platform.bootstrap)
    gone_videos, gone_comments = platform.lists_after()
    assert "bake" not in gone_videos
    assert "fresh" not in gone_comments

    # A worker that comes later reads of it in the catalog only.
    with platform.worker("1") as later:
        later.wait_ready()
        assert worker.stop() == 0
        assert platform.lists_after() == (gone_videos, gone_comments)


def test_new_comments_are_recommended_under_old_and_new_videos(platform: Platform, worker: WorkerProcess) -> None:
    # The comment first: the topics are read side by side, in no order.
    platform.publish(Comment("first", "new", BAKING), Comment("fresh", QUIET, BAKING, like_count=3))
    platform.publish(Video("new", TRAVEL))
    wait_until_catalog_read(worker, platform.bootstrap)
    platform.publish(view("u", QUIET), view("v", "new"))
    wait_until_committed(platform.bootstrap, worker, timeout=60)
    lists = last_lists(platform.bootstrap, "comments")
    known = {comment for comment, video in VIDEO_OF.items() if video == QUIET}
    assert {item.id for item in lists["u"].items} == known | {"fresh"}
    assert [item.id for item in lists["v"].items] == ["first"]


def test_histories_of_new_items_count_by_their_text(platform: Platform, worker: WorkerProcess) -> None:
    new = [VideoEntry(f"bake-{i}", f"{BAKING} {i}") for i in range(3)]
    late = CommentEntry("late", BAKING, "bake-0")
    platform.publish(*(Video(entry.id, entry.text or "") for entry in new), Comment("late", "bake-0", BAKING))
    wait_until_catalog_read(worker, platform.bootstrap)
    glance = view("u", STAGE, watch_ms=100)
    wrote = CommentInteraction("wrote", "u", "bake-0", "late", glance.ts_ms, "like")
    videos, comments = platform.lists_after(*(view("u", entry.id) for entry in new), wrote)
    user = Request([entry.id for entry in new], ["bake-0"], ["late"], STAGE)
    assert (videos, comments) == expected(platform, user, *new, late)
    blind = expected(platform, user)
    assert videos != blind[0]
    assert len(set(nearest(BAKING, 30)) & set(videos[:30])) > len(set(nearest(BAKING, 30)) & set(blind[0][:30]))
