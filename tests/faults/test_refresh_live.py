"""A running stack: traffic flows, the archive fills, a refresh trains, gates and publishes, and the worker swaps.

Nothing stops meanwhile, and nothing is lost: neither by the swap, nor by a bad model (which is not published), nor by
a corrupted bundle (which is refused), nor by going back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from support import releases
from support.outcome import check_redis, check_triggers
from support.releases import serves, until, versions_of_users
from support.topic_reader import changelog_states, fold, read_topic, without_origin
from support.whole_path import command_line, lsvcr
from support.worker_process import REPOSITORY, WorkerProcess

from infra.local.stack import LocalStack
from model_runtime.registry import Registry
from model_runtime.stores import FolderStore
from offline_train.sources.simulator import Simulator
from offline_train.sources.simulator_config import SimulatorConfig
from streams import recommendations
from streams.archive_files import TOPICS, read_rows
from streams.events import CommentInteraction, Event, VideoView
from streams.history import HistoryConfig
from streams.loading import history_of
from streams.publisher import Publisher
from streams.releases import STABLE, Release, announce
from streams.topics import EVENT_TOPICS

pytestmark = [pytest.mark.integration, pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(2400)]

PLATFORM = SimulatorConfig(seed=3, users=300, videos=300, comments=1_500, days=10, interactions=6_000)
RATE = 60.0
CONFIG = {
    "train": {"epochs": 1, "epoch_samples": 1_000, "batch": 128, "threads": 1},
    "student": {"samples": 5_000, "bits": 12},
    "gate": {"fewest": 10, "margin": 0.9},  # what is tried here is the way, not the models
}


class Traffic:
    """The platform's life after its log, published as it happens until told to stop."""

    def __init__(self, simulator: Simulator, bootstrap: str) -> None:
        self.published: list[Event] = []
        self._simulator, self._bootstrap = simulator, bootstrap
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Publisher(self._bootstrap, linger_ms=1) as publisher:
            began = time.monotonic()
            for number, (_, record) in enumerate(self._simulator.live(int(time.time() * 1000), RATE)):
                if self._stopped.wait(max(0.0, began + number / RATE - time.monotonic())):
                    return
                publisher.publish(record)
                if isinstance(record, VideoView | CommentInteraction):
                    self.published.append(record)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture
def archiver(own_stack: LocalStack, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    bootstrap = own_stack.status().bootstrap_servers
    flags = ["--to", str(tmp_path / "archive"), "--bootstrap-servers", bootstrap, "--flush-seconds", "2"]
    with (tmp_path / "archive.log").open("wb") as out:
        process = subprocess.Popen(command_line("archive", *flags), stdout=out, stderr=out, cwd=REPOSITORY)
    yield process
    process.terminate()
    process.wait(30)


def test_a_model_is_trained_released_and_gone_back_from_under_traffic(
    own_stack: LocalStack, archiver: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    places = {"archive": str(tmp_path / "archive"), "registry": str(tmp_path / "registry"), "work": str(tmp_path / "w")}
    config = tmp_path / "refresh.yaml"
    config.write_text(json.dumps(places | CONFIG))  # JSON is YAML
    registry = Registry(places["registry"])
    options = ("--registry", places["registry"], "--bootstrap-servers", bootstrap)

    def refresh(*flags: str, command: str = "infra.cli") -> dict[str, str]:
        arguments = ["train", "refresh", "--config", str(config), "--bootstrap-servers", bootstrap, "--json", *flags]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
        done = subprocess.run(
            [sys.executable, "-m", command, *arguments], cwd=REPOSITORY, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    simulator = Simulator(PLATFORM.ending_at(int(time.time() * 1000)))
    log: list[Event] = list(simulator.events())
    with Publisher(bootstrap) as publisher:
        for record in [entry for catalog in simulator.catalog() for entry in catalog] + log:
            publisher.publish(record)
    until(lambda: _archived(places["archive"], EVENT_TOPICS) == len(log), 60, "the log is archived")
    first = refresh()
    assert first["outcome"] == "published", first

    swaps: list[float] = []
    with (
        Traffic(simulator, bootstrap) as traffic,
        WorkerProcess(bootstrap, redis_url, tmp_path, flags=("--registry", places["registry"])) as worker,
    ):
        worker.wait_ready()
        assert serves(worker) == {"stable": first["version"]}
        second = refresh()
        swaps.append(time.time())
        assert second["outcome"] == "published", second
        until(lambda: serves(worker) == {"stable": second["version"]}, 30, "serving the new model")

        rejected = refresh("--set", "gate.margin=0.02", command="infra.demo.spoilt")
        assert (rejected["outcome"], rejected["version"]) == ("rejected", None), rejected
        assert "is worse than the serving model's" in rejected["why"]
        assert registry.versions() == sorted([first["version"], second["version"]])

        corrupt = tmp_path / "corrupt"
        _copy_with_a_bit_flipped(registry.path(second["version"]), corrupt)
        pointer = registry.pointer(STABLE)
        announce(
            bootstrap,
            Release(STABLE, second["version"], corrupt.as_uri(), "1" * 64, pointer.promoted_ms + 1),
        )
        until(lambda: worker.metric("lsvcr_model_refusals_total") == 1, 30, "refusing the corrupted bundle")
        assert serves(worker) == {"stable": second["version"]}

        lsvcr("models", "rollback", *options)
        until(lambda: serves(worker) == {"stable": first["version"]}, 30, "serving the first model again")
        took = time.time() - registry.pointer(STABLE).promoted_ms / 1000
        swaps.append(time.time())
        time.sleep(2)
        # The end: everything that was published is in the states, in the lists, in Redis and in the archive.
        traffic.stop()
        worker.wait_caught_up()
        users = {event.user_id for event in traffic.published}
        until(
            lambda: (
                {user: v for user, v in versions_of_users(bootstrap).items() if user in users}
                == dict.fromkeys(users, first["version"])
            ),
            60,
            "lists of the first model",
        )
        until(lambda: worker.metric("lsvcr_redis_behind_partitions") == 0, 10, "Redis")
        assert worker.stop() == 0
    everything = log + traffic.published
    _check_states(bootstrap, everything, *(history_of(registry.open(model["version"])) for model in (first, second)))
    check_triggers(bootstrap, everything)
    check_redis(bootstrap, redis_url)
    for record in releases.lists(bootstrap):
        assert record.model_version in (first["version"], second["version"])
    archiver.terminate()
    archiver.wait(30)
    assert _archived(places["archive"], TOPICS) == sum(1 for topic in TOPICS for _ in read_topic(bootstrap, topic))
    print(f"\nrollback {took:.2f} s; {len(traffic.published)} live events; latency ms {_latencies(bootstrap, swaps)}")


def _check_states(bootstrap: str, log: list[Event], one: HistoryConfig, other: HistoryConfig) -> None:
    """Every state is the fold of the log; what was seen, between what the two models remember."""
    less, more = (fold(log, config) for config in sorted((one, other), key=lambda config: config.seen))
    found = {user: without_origin(state) for user, state in changelog_states(bootstrap).items()}
    assert found.keys() == less.keys()
    for user, state in found.items():
        assert msgspec.structs.replace(state, seen=less[user].seen) == less[user], user
        assert set(less[user].seen.videos) <= set(state.seen.videos) <= set(more[user].seen.videos), user


def _archived(folder: str, topics: tuple[str, ...]) -> int:
    return sum(len(table) for topic in topics for _, table in read_rows(FolderStore(Path(folder)), topic))


def _copy_with_a_bit_flipped(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        data = bytearray(file.read_bytes())
        if file.name == "video_vectors.npy":
            data[-1] ^= 1
        (target / file.name).write_bytes(data)


def _latencies(bootstrap: str, swaps: list[float]) -> dict[str, list[float]]:
    """From an event's record to the first list that covers it: [median, 99 %, most], near a swap and otherwise."""
    published = {
        (record.topic(), record.partition(), record.offset()): record.timestamp()[1]
        for topic in EVENT_TOPICS
        for record in read_topic(bootstrap, topic)
    }
    first: dict[tuple[str, int, int], int] = {}
    for record in read_topic(bootstrap, recommendations.TOPIC_OF["videos"]):
        trigger = recommendations.decode("videos", record.value()).trigger
        first.setdefault((trigger.topic, trigger.partition, trigger.offset), record.timestamp()[1])
    begin = min(swaps) * 1000 - 30_000
    found: dict[str, list[float]] = {"near a swap": [], "otherwise": []}
    for place, at in first.items():
        if published[place] > begin:
            near = any(-1_000 < published[place] - swap * 1000 < 5_000 for swap in swaps)
            found["near a swap" if near else "otherwise"].append(at - published[place])
    return {
        name: [len(ms), *(round(float(q), 1) for q in np.percentile(ms, (50, 99, 100)))]
        for name, ms in found.items()
        if ms
    }
