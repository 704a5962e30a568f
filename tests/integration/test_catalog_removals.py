"""Removals, returns and hate, seen from outside: what a live worker with the shipped bundle recommends next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live_platform import STAGE, UNDER_STAGE, VIDEO_OF, VIDEOS, Platform, text, title, view
from support.outcome import last_lists
from support.whole_path import wait_until_catalog_read, wait_until_committed
from support.worker_process import WorkerProcess

from streams.events import Comment, CommentInteraction, Video

pytestmark = pytest.mark.integration


@pytest.fixture
def platform(fresh_topics: str, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Platform:
    return Platform(fresh_topics, redis_url, tmp_path, student=getattr(request, "param", True))


@pytest.fixture
def worker(platform: Platform) -> Iterator[WorkerProcess]:
    with platform.worker() as running:
        yield running.wait_ready()


def test_what_is_removed_is_not_recommended_until_it_is_back(platform: Platform, worker: WorkerProcess) -> None:
    platform.publish_catalog()
    wait_until_catalog_read(worker, platform.bootstrap)
    videos, comments = platform.lists_after(view("u", VIDEOS[0]), view("u", VIDEOS[1]))
    video, comment = videos[0], comments[0]
    assert VIDEO_OF[comment] == STAGE

    platform.remove(video=video, comment=comment)
    wait_until_catalog_read(worker, platform.bootstrap)
    without_videos, without_comments = platform.lists_after()
    assert without_videos[:99] == videos[1:]
    assert without_comments[: len(comments) - 1] == comments[1:]
    assert video not in without_videos
    assert comment not in without_comments

    # A worker that comes later reads of it in the catalog only, and shares the users with the first.
    with platform.worker("1") as later:
        later.wait_ready()
        assert worker.stop() == 0
        assert platform.lists_after() == (without_videos, without_comments)

        platform.publish(Video(video, title(video)), Comment(comment, STAGE, text(comment)))
        wait_until_catalog_read(later, platform.bootstrap)
        assert platform.lists_after() == (videos, comments)


def test_under_a_removed_video_no_comment_is_recommended(platform: Platform, worker: WorkerProcess) -> None:
    platform.publish_catalog()
    platform.remove(video=STAGE)
    wait_until_catalog_read(worker, platform.bootstrap)
    videos, comments = platform.lists_after()
    assert len(videos) == 100
    assert comments == []


def test_without_a_catalog_the_whole_bundle_is_recommended(platform: Platform, worker: WorkerProcess) -> None:
    assert worker.metric("lsvcr_catalog_entries") == len(VIDEOS) + len(VIDEO_OF)
    before = platform.lists_after()
    assert len(before[0]) == 100
    assert len(before[1]) == min(50, len(UNDER_STAGE))
    assert set(before[1]) <= set(UNDER_STAGE)
    platform.publish_catalog()
    wait_until_catalog_read(worker, platform.bootstrap)
    assert platform.lists_after() == before


@pytest.mark.parametrize("platform", [False], indirect=True)
def test_without_a_student_what_training_did_not_know_does_no_harm(platform: Platform, worker: WorkerProcess) -> None:
    platform.publish_catalog()
    wait_until_catalog_read(worker, platform.bootstrap)
    expected = platform.lists_after()
    platform.publish(Video("new", "made after the training"), Comment("new-comment", "new", "first!"))
    platform.remove(video="never-was", comment="never-was")
    wait_until_catalog_read(worker, platform.bootstrap)
    on_new = CommentInteraction("on-new", "u", "new", "new-comment", int(time.time() * 1000), "view")
    assert platform.lists_after(view("u", "never-was"), on_new) != ([], [])
    # Another user, on the new video alone, is recommended what is known, and no comments.
    platform.publish(view("v", "new"))
    wait_until_committed(platform.bootstrap, worker, timeout=60)
    videos, comments = (last_lists(platform.bootstrap, kind)["v"] for kind in ("videos", "comments"))  # type: ignore[arg-type]
    assert len(videos.items) == 100
    assert comments.items == ()
    assert "new" not in expected[0]
    assert worker.metric("lsvcr_rejected_events_total") == 0
    assert worker.metric("lsvcr_unscorable_users_total") == 0


@pytest.mark.usefixtures("worker")
def test_a_hated_video_is_not_recommended_again(platform: Platform) -> None:
    hated = platform.lists_after()[0][0]
    assert hated not in platform.lists_after(view("u", hated, actions=("hate",)))[0]
    # Hate stands also when more is seen since than a state remembers as seen.
    others = [video for video in VIDEOS if video != hated][:90]
    assert hated not in platform.lists_after(*(view("u", video, watch_ms=100) for video in others))[0]
