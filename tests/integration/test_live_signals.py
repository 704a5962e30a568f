"""Live signals, seen from outside: what everyone does shows in everyone's lists, with one worker or two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.live_platform import BUNDLE, COMMENTS, STAGE, VIDEO_OF, VIDEOS, Platform, view
from support.outcome import last_lists
from support.topic_reader import read_topic
from support.whole_path import wait_until_catalog_read, wait_until_committed
from support.worker_process import WorkerProcess

from model_runtime.blend import Blend
from model_runtime.bundle import Bundle
from model_runtime.live_section import LiveItems, LiveSection, LiveTask
from model_runtime.scorer import Request, Scorer
from model_runtime.signals import Signals
from streams import events
from streams.events import CommentInteraction, Video, VideoView
from streams.history import engages
from streams.live_records import take_in
from streams.recommendations import Recommendations
from streams.topics import COMMENT_INTERACTIONS, LIVE_SIGNALS, VIDEO_VIEWS

pytestmark = pytest.mark.integration

HOUR = 3_600_000
#: two videos that the users of these tests don't watch by themselves
QUIET, OTHER = [video for video in VIDEOS if video != STAGE][:2]
#: what a second more or less of decay, and the digits of a published count, change in a score
CLOSE = 5e-3


def live_section() -> LiveSection:
    def task(**weights: float) -> LiveTask:
        ones = [1.0] * len(weights)
        blend = Blend(list(weights), mean=[0.0] * len(weights), scale=ones, linear=list(weights.values()))
        return LiveTask([1.0 * HOUR, 24.0 * HOUR], True, blend)

    def items(count: int) -> LiveItems:
        return LiveItems(1_600_000_000_000 + np.arange(count, dtype=np.int64), np.ones(count, np.int64))

    tasks = {"video": task(recent_0=1.0, recent_1=0.5, fresh_0=5.0), "comment": task(recent_0=2.0, order=0.1)}
    return LiveSection(tasks, {"video": items(len(VIDEOS)), "comment": items(len(COMMENTS))})


@pytest.fixture
def platform(fresh_topics: str, redis_url: str, tmp_path: Path) -> Platform:
    return Platform(fresh_topics, redis_url, tmp_path, live=live_section())


@pytest.fixture
def worker(platform: Platform) -> Iterator[WorkerProcess]:
    with platform.worker("0", "--explain") as running:
        running.wait_ready()
        platform.publish_catalog()
        wait_until_catalog_read(running, platform.bootstrap)
        yield running


def glance(platform: Platform, user: str) -> Recommendations:
    """The user's videos after an event that is no engagement."""
    platform.lists_after(user=user)
    return last_lists(platform.bootstrap, "videos")[user]


def until(condition: Callable[[], bool], what: str, timeout: float = 60) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + timeout, f"not within {timeout} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def of_the_events(bootstrap: str) -> Signals:
    """The counts of one worker that took in all events on the topics."""
    signals = Signals()
    for kind, topic in (("video", VIDEO_VIEWS), ("comment", COMMENT_INTERACTIONS)):
        seen: set[tuple[str, str]] = set()
        for record in read_topic(bootstrap, topic):
            event = events.decode_value(topic, record.value(), now_ms=2**52)
            assert isinstance(event, VideoView | CommentInteraction)
            ts_ms = min(event.ts_ms, record.timestamp()[1])
            if engages(event) and (event.user_id, event.event_id) not in seen:
                item = event.video_id if isinstance(event, VideoView) else event.comment_id
                signals.add(kind, {record.partition(): ([item], [ts_ms])})
            seen.add((event.user_id, event.event_id))
            signals.advance(ts_ms)
    return signals


def of_the_topic(bootstrap: str) -> Signals:
    """The counts of a worker that starts now."""
    signals = Signals()
    take_in(map(AsAiokafka, read_topic(bootstrap, LIVE_SIGNALS)), signals, {})
    return signals


class AsAiokafka:
    """A record of the other client, as the worker's reader has it."""

    def __init__(self, record: object) -> None:
        self.key, self.value = record.key(), record.value()  # type: ignore[attr-defined]
        self.partition, self.offset = record.partition(), record.offset()  # type: ignore[attr-defined]


def figures(signals: Signals, now_ms: int) -> dict[tuple[str, str], list[float]]:
    """Counts that are there, by kind and id."""
    found = {}
    for kind, counted in signals.kinds.items():
        for id_, counts in zip(counted.total.ids, counted.total.at(now_ms).tolist(), strict=True):
            if max(counts) > 1e-4:
                found[kind, id_] = counts
    return found


def agree(bootstrap: str) -> bool:
    """Whether the topic holds the counts of all events."""
    expected, found = of_the_events(bootstrap), of_the_topic(bootstrap)
    one, other = figures(expected, expected.now_ms), figures(found, expected.now_ms)
    return one.keys() == other.keys() and all(np.allclose(one[key], other[key], atol=1e-4) for key in one)


def crowd(number: int, size: int, video: str = QUIET) -> list[VideoView | CommentInteraction]:
    """Views of a video by users of their own, and likes of a comment at the stage."""
    comment = next(comment for comment, under in VIDEO_OF.items() if under == STAGE)
    views = [view(f"crowd-{number}-{i}", video) for i in range(size)]
    likes = [
        CommentInteraction(f"like-{number}-{i}", one.user_id, STAGE, comment, one.ts_ms + 1, "like")
        for i, one in enumerate(views[: size // 2])
    ]
    return [*views, *likes]


def test_what_takes_off_is_in_the_lists_of_unrelated_users(platform: Platform, worker: WorkerProcess) -> None:
    before = [item.id for item in glance(platform, "u").items]
    assert before[0] != QUIET
    platform.publish(*crowd(0, 40))
    seconds = until(lambda: glance(platform, "u").items[0].id == QUIET, "in the list of another user")
    print(f"in the lists of unrelated users after {seconds:.2f} s")

    # A user never seen before gets what is alive; one with a history gets both parts, explained.
    new = glance(platform, "never seen before")
    assert new.source == "live"
    assert new.items[0].id == QUIET
    assert len(new.items) == 100
    platform.publish(view("u", OTHER))
    known = glance(platform, "u")
    assert known.source == "model"
    for item in known.items:
        assert item.sr is not None
        assert item.live is not None
        assert item.score == pytest.approx(item.sr + item.live, abs=2e-5)
        assert item.sources
    assert known.items[0].sources is not None
    assert "trending" in known.items[0].sources
    comments = last_lists(platform.bootstrap, "comments")["u"].items
    liked = next(comment for comment, under in VIDEO_OF.items() if under == STAGE)
    assert comments[0].id == liked
    assert comments[0].live is not None
    assert comments[0].live > comments[1].live

    # It is as the scorer ranks that was told of the same events.
    signals = of_the_events(platform.bootstrap)
    scorer = Scorer(Bundle.open(platform.bundle))
    scorer.follow(signals)
    seen = {STAGE, OTHER}
    (expected,) = scorer.score([Request([OTHER], current_video=STAGE)])
    wanted = [pair for pair in zip(expected.video_ids, expected.video_scores, strict=True) if pair[0] not in seen]
    found = {item.id: item.score for item in known.items}
    assert found.keys() >= {id_ for id_, score in wanted if score > known.items[-1].score + CLOSE}
    assert all(abs(found[id_] - score) < CLOSE for id_, score in wanted if id_ in found)


def test_a_video_without_any_view_can_be_recommended(platform: Platform, worker: WorkerProcess) -> None:
    glance(platform, "u")
    platform.publish(Video("fresh", "How to bread dough yeast baking", created_ms=int(time.time() * 1000)))
    seconds = until(lambda: glance(platform, "u").items[0].id == "fresh", "the new video in the list")
    print(f"a new video in a list after {seconds:.2f} s")
    (first, *_) = glance(platform, "u").items
    assert first.sources is not None
    assert "newest" in first.sources


def test_two_workers_agree_with_one_and_none_is_lost_with_a_worker(platform: Platform) -> None:
    short = "--session-timeout", "6"
    with platform.worker("0", "--explain", *short) as one:
        one.wait_ready()
        with platform.worker("1", "--explain", *short) as two:
            two.wait_ready()
            for both in (one, two):
                both.wait(lambda both=both: 0 < len(both.health()["partitions"]) < 8, 60, "with half of the partitions")
            platform.publish_catalog()
            for number in range(3):
                platform.publish(*crowd(number, 60, VIDEOS[5 + number]))
                wait_until_committed(platform.bootstrap, one, two)
                seconds = until(lambda: agree(platform.bootstrap), "the topic has the counts of all events")
                print(f"all workers' counts on the topic after {seconds:.2f} s")
            users = [f"u{i}" for i in range(16)]

            def same() -> bool:
                """Users of both workers, none with a history, get one list with one score."""
                platform.publish(*(view(user, STAGE, watch_ms=100) for user in users))
                wait_until_committed(platform.bootstrap, one, two)
                lists = last_lists(platform.bootstrap, "videos")
                first = {item.id: item.score for item in lists[users[0]].items[:20]}
                others = [{item.id: item.score for item in lists[user].items[:20]} for user in users]
                return all(
                    first.keys() == other.keys() and all(abs(first[id_] - other[id_]) < CLOSE for id_ in first)
                    for other in others
                )

            until(same, "both workers' lists are alike")
            two.kill()
        # Its partitions move, and with them what it had counted.
        one.wait(lambda: len(one.health()["partitions"]) == 8, 60, "the owner of all partitions")
        platform.publish(*crowd(9, 60, VIDEOS[9]))
        wait_until_committed(platform.bootstrap, one)
        until(lambda: agree(platform.bootstrap), "the topic has the counts of all events")
        one.kill()
    # A worker that starts anew, without any file of the former ones, goes on from the topic.
    with platform.worker("2", "--explain", *short) as three:
        three.wait_ready()
        platform.publish(*crowd(10, 60, VIDEOS[9]))
        wait_until_committed(platform.bootstrap, three)
        until(lambda: agree(platform.bootstrap), "the topic has the counts of all events")
        assert glance(platform, "u0").items[0].id == VIDEOS[9]
        assert three.stop() == 0
    assert agree(platform.bootstrap)


def test_off_by_one_setting_scores_are_the_models_alone(platform: Platform) -> None:
    with platform.worker("0", "--no-live") as worker:
        worker.wait_ready()
        platform.publish(*crowd(0, 30))
        platform.publish(view("u", OTHER))
        found = glance(platform, "u")
    (expected,) = Scorer(Bundle.open(platform.bundle)).score([Request([OTHER], current_video=STAGE)])
    assert [item.id for item in found.items] == list(expected.video_ids)
    # the last digit depends on who else was in the batch
    assert [item.score for item in found.items] == pytest.approx(list(expected.video_scores), abs=1e-4)
    assert found.source == "model"
    assert found.items[0].live is None
    assert not list(read_topic(platform.bootstrap, LIVE_SIGNALS))
    assert BUNDLE.live is None
