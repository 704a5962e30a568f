"""Releases reach a running worker: it swaps, refuses, goes back, and splits off a canary, and loses nothing by it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import releases, traffic
from support.outcome import check_redis, check_states, check_triggers
from support.releases import serves, some_events, until, versions_of_users
from support.whole_path import lsvcr
from support.worker_process import WorkerProcess

from model_runtime.bundle import SampleRequest, Scored
from model_runtime.registry import Registry
from streams.history import HistoryConfig
from streams.releases import CANARY, STABLE, Release, announce, in_share, promote

pytestmark = pytest.mark.integration

MARKS = {"a1": "a", "b1": "b"}
CONFIG = HistoryConfig(**releases.HISTORY)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions, a1 and b1; the channel stable serves a1."""
    registry = Registry(tmp_path / "registry")
    for seed, (version, mark) in enumerate(MARKS.items()):
        releases.publish(registry, tmp_path / "built", version, releases.model(mark, seed))
    registry.promote(STABLE, "a1")
    return registry


@pytest.fixture
def worker(fresh_topics: str, redis_url: str, tmp_path: Path, registry: Registry) -> Iterator[WorkerProcess]:
    with releases.worker(fresh_topics, redis_url, tmp_path, registry) as running:
        yield running.wait_ready()


def test_a_release_takes_over_and_recent_users_get_new_lists(
    worker: WorkerProcess, fresh_topics: str, redis_url: str, registry: Registry
) -> None:
    log = some_events()
    traffic.publish(fresh_topics, log)
    worker.wait_caught_up()
    assert set(versions_of_users(fresh_topics).values()) == {"a1"}
    printed = json.loads(
        lsvcr("models", "promote", "b1", "--registry", registry.root, "--bootstrap-servers", fresh_topics, "--json")
    )
    assert (printed["channel"], printed["version"]) == ("stable", "b1")
    until(lambda: serves(worker) == {"stable": "b1"}, 20, "serving b1")
    # Nothing happens to them, and still all of them get the new model's lists.
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"b1"}, 20, "new lists")
    assert worker.metric("lsvcr_background_users_total") == len({event.user_id for event in log})
    options = ("--registry", registry.root, "--bootstrap-servers", fresh_topics, "--users", "40", "--json")
    differ = json.loads(lsvcr("models", "diff", "a1", "stable", *options))  # on the users whom the worker knows
    assert differ["videos"]["users"] == 40
    assert 0 < differ["videos"]["overlap"] < 1
    until(lambda: worker.metric("lsvcr_redis_behind_partitions") == 0, 10, "Redis")
    check_states(fresh_topics, log, CONFIG)
    check_triggers(fresh_topics, log)
    releases.check_last_lists(fresh_topics, registry)
    assert worker.stop() == 0
    check_redis(fresh_topics, redis_url)


def test_swaps_under_load_lose_no_event_and_mix_no_models(
    worker: WorkerProcess, fresh_topics: str, redis_url: str, registry: Registry
) -> None:
    log = some_events(8_000, users=300)
    publisher = threading.Thread(target=traffic.publish, args=(fresh_topics, log), kwargs={"rate": 800.0})
    publisher.start()
    for version in ("b1", "a1", "b1", "a1", "b1"):
        promote(registry, fresh_topics, STABLE, version)
        until(lambda version=version: serves(worker) == {"stable": version}, 20, f"serving {version}")
        time.sleep(1)
    publisher.join()
    worker.wait_caught_up()
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"b1"}, 20, "new lists")
    assert worker.stop() == 0
    check_states(fresh_topics, log, CONFIG)
    check_triggers(fresh_topics, log)
    check_redis(fresh_topics, redis_url)
    assert releases.check_made_by_one_model(fresh_topics, MARKS) >= 300
    releases.check_last_lists(fresh_topics, registry)


def test_a_rollback_takes_effect_within_five_seconds(
    worker: WorkerProcess, fresh_topics: str, registry: Registry
) -> None:
    log = some_events()
    traffic.publish(fresh_topics, log)
    promote(registry, fresh_topics, STABLE, "b1")
    until(lambda: serves(worker) == {"stable": "b1"}, 20, "serving b1")
    worker.wait_caught_up()
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"b1"}, 20, "new lists")
    lsvcr("models", "rollback", "--registry", registry.root, "--bootstrap-servers", fresh_topics)
    until(lambda: serves(worker) == {"stable": "a1"}, 20, "serving a1 again")
    # From the decision on: how long a command takes to start is the machine's business.
    assert time.time() - registry.pointer(STABLE).promoted_ms / 1000 < 5
    traffic.publish(fresh_topics, some_events(100, users=60, seed=9))
    worker.wait_caught_up()
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"a1"}, 20, "the old lists again")
    assert registry.channel(STABLE) == "a1"


def test_what_cannot_serve_is_refused_and_the_old_model_serves_on(
    worker: WorkerProcess, fresh_topics: str, registry: Registry, tmp_path: Path
) -> None:
    bad = {
        "missing-file": "bundle",
        "changed-file": "bundle",
        "no-graph": "bundle",
        "wrong-shape": "scores",
        "not-a-number": "scores",
        "other-sample": "scores",
        "other-window": "history",
        "other-bundle": "checksum",
    }
    made = releases.model("x", 7)
    sample = [{"request": SampleRequest(["video-00001"], []), "videos": [Scored("x-1", 99.0)], "comments": []}]
    changes = {
        "no-graph": {"encoder": b"no graph at all"},
        "wrong-shape": {"encoder": releases.make_model(5, 5, dim=4).encoder()},
        "not-a-number": {"encoder": releases.not_a_number(made).encoder()},
        "other-sample": {"sample": sample},
        "other-window": {"history": {"window": 40, "drop": 16}},
    }
    for version in bad:
        releases.publish(registry, tmp_path / "built", version, made, **changes.get(version, {}))
    releases.damage(registry.open("missing-file"), "video_vectors.npy", None)
    releases.damage(registry.open("changed-file"), "encoder.onnx", lambda data: data[:-1] + b"!")
    traffic.publish(fresh_topics, some_events(100))
    for number, (version, reason) in enumerate(bad.items(), 1):
        pointer = registry.promote(STABLE, version)
        digest = "0" * 64 if version == "other-bundle" else pointer.sha256
        announce(fresh_topics, Release(STABLE, version, registry.uri(version), digest, pointer.promoted_ms))
        until(lambda n=number: worker.metric("lsvcr_model_refusals_total") == n, 20, f"refusing {version}")
        assert f'channel="stable",reason="{reason}"' in worker.get("/metrics")[1].decode(), version
        assert f"refused version {version} for channel stable, a1 serves on: " in worker.tail()
        assert serves(worker) == {"stable": "a1"}
    announce(fresh_topics, Release("nightly", "b1", registry.uri("b1"), registry.sha256("b1"), 1))  # nobody's channel
    promote(registry, fresh_topics, STABLE, "b1")
    until(lambda: serves(worker) == {"stable": "b1"}, 20, "serving b1")
    worker.wait_caught_up()
    assert worker.stop() == 0


def test_a_canary_serves_always_the_same_share_of_users(
    worker: WorkerProcess, fresh_topics: str, registry: Registry
) -> None:
    options = ("--registry", registry.root, "--bootstrap-servers", fresh_topics)
    log = some_events(2_000, users=200)
    users = {event.user_id for event in log}
    traffic.publish(fresh_topics, log)
    worker.wait_caught_up()
    for percent in (30, 60):
        lsvcr("models", "canary", *(["b1"] if percent == 30 else []), "--percent", str(percent), *options)
        expected = {user: "b1" if in_share(user.encode(), percent) else "a1" for user in users}
        until(lambda: versions_of_users(fresh_topics) == expected, 20, f"a canary for {percent} %")  # noqa: B023
        traffic.publish(fresh_topics, some_events(500, users=200, seed=percent))
        worker.wait_caught_up()
        assert versions_of_users(fresh_topics) == expected
    assert serves(worker) == {"stable": "a1", "canary": "b1"}
    releases.check_made_by_one_model(fresh_topics, MARKS)
    releases.check_last_lists(fresh_topics, registry)
    lsvcr("models", "promote", "b1", *options)  # for everybody: the canary is over
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"b1"}, 20, "everybody has b1")
    until(lambda: serves(worker) == {"stable": "b1"}, 10, "no canary")
    assert registry.channels() == [STABLE]
    lsvcr("models", "canary", "a1", "--percent", "50", *options)
    until(lambda: serves(worker).get(CANARY) == "a1", 20, "another canary")
    lsvcr("models", "canary", "--off", *options)
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"b1"}, 20, "the canary has ended")


def test_a_removed_video_stays_out_of_the_lists_of_the_next_model(
    worker: WorkerProcess, fresh_topics: str, registry: Registry
) -> None:
    from streams.events import Video
    from streams.publisher import Publisher

    kept = [video for video in releases.SHARED if video.endswith(("1", "2", "3"))]
    with Publisher(fresh_topics) as publisher:
        for video in releases.SHARED:
            publisher.publish(Video(video, "a title"))
        for video in set(releases.SHARED) - set(kept):
            publisher.remove_video(video)
    traffic.publish(fresh_topics, some_events(300, users=30))
    worker.wait_caught_up()
    promote(registry, fresh_topics, STABLE, "b1")
    until(lambda: set(versions_of_users(fresh_topics).values()) == {"b1"}, 20, "new lists")
    with Publisher(fresh_topics) as publisher:  # the new model's catalog goes on as the old one's did
        publisher.remove_video(kept[0])
    until(lambda: _videos_alive(worker) == len(kept) - 1, 10, "the removal")
    traffic.publish(fresh_topics, some_events(300, users=30, seed=5))
    worker.wait_caught_up()
    lists = [r for r in releases.lists(fresh_topics) if r.model_version == "b1" and not hasattr(r, "video_id")]
    newest = {r.user_id: r for r in lists}
    assert newest
    assert {item.id for r in lists for item in r.items} <= set(kept)
    assert kept[0] not in {item.id for r in newest.values() for item in r.items}


def test_a_worker_that_starts_serves_the_version_before_a_bad_one(
    fresh_topics: str, redis_url: str, registry: Registry, tmp_path: Path
) -> None:
    promote(registry, fresh_topics, STABLE, "b1")
    releases.damage(registry.open("b1"), "encoder.onnx", None)
    with releases.worker(fresh_topics, redis_url, tmp_path, registry) as running:
        running.wait_ready()
        assert serves(running) == {"stable": "a1"}
        until(lambda: running.metric("lsvcr_model_refusals_total") == 1, 20, "refusing b1")
        assert serves(running) == {"stable": "a1"}


def _videos_alive(worker: WorkerProcess) -> float:
    lines = worker.get("/metrics")[1].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith('lsvcr_catalog_entries{kind="videos"}'))
