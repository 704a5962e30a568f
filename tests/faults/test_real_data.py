"""Real data sets through the whole path, in peace and under kills: the same states, the same lists, PyTorch's scores.

`pytest -s -m slow tests/faults/test_real_data.py` shows the figures. LSVCR_FIT_FLAGS replaces the flags of training,
for example `--epochs 50` for a model as good as it gets.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from support.outcome import check_redis, check_states, check_triggers
from support.topic_reader import latest, read_topic
from support.topic_removal import delete_idle_groups, delete_topics
from support.whole_path import (
    Outcome,
    Removed,
    TrainedLog,
    check_kcat,
    check_origins,
    check_promises,
    check_same,
    check_scores,
    command_line,
    lsvcr,
    wait_until_committed,
)
from support.worker_process import REPOSITORY, WorkerProcess

from infra.local.stack import LocalStack
from infra.topic_admin import create_topics
from streams.topics import (
    COMMENT_INTERACTIONS,
    COMMENTS,
    DEAD_LETTERS,
    DEFAULT_PARTITIONS,
    RECOMMENDATION_TOPICS,
    STATE_CHANGELOG,
    VIDEO_VIEWS,
    VIDEOS,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.train,
    pytest.mark.integration,
    pytest.mark.timeout(3600),
]

#: One short epoch: whether streamed scores equal the trainer's does not depend on how good the model is.
FIT_FLAGS = "--epochs 1 --epoch-samples 5000 --no-test --no-live"
#: Lines a second of each event file while workers are killed: slow enough that each kill comes in mid-publish.
RATE = 500
#: For one step of a test, on a machine that has much else to do.
PATIENCE_S = 240


@dataclass(frozen=True)
class Place:
    """Where a run takes place: an empty platform, and a folder for its workers."""

    bootstrap: str
    redis_url: str
    folder: Path

    def worker(self, trained: TrainedLog, worker_id: str = "0") -> WorkerProcess:
        flags = ("--registry", str(trained.registry), "--no-live")
        return WorkerProcess(self.bootstrap, self.redis_url, self.folder, worker_id=worker_id, flags=flags)

    def to_broker(self) -> tuple[str, str]:
        return "--bootstrap-servers", self.bootstrap

    def clear(self) -> None:
        """As if nothing had happened yet."""
        delete_topics(self.bootstrap)
        delete_idle_groups(self.bootstrap)
        create_topics(self.bootstrap, DEFAULT_PARTITIONS)
        with Redis.from_url(self.redis_url) as redis:
            redis.flushall()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    ("source", "folder"), [("rotten-tomatoes", "rotten-tomatoes"), ("hetrec-tags", "hetrec2011-tags")]
)
def test_a_real_data_set_gives_the_same_lists_with_and_without_kills(
    source: str, folder: str, data_dir_shared: Path, own_stack: LocalStack, tmp_path: Path
) -> None:
    lsvcr("convert", source, data_dir_shared / folder, tmp_path / "log")
    began = time.monotonic()
    flags = shlex.split(os.environ.get("LSVCR_FIT_FLAGS", FIT_FLAGS))
    trained = TrainedLog.fit(tmp_path / "log", tmp_path / "registry", *flags)
    trained_s = time.monotonic() - began

    info = own_stack.status()
    assert info.bootstrap_servers is not None
    assert info.redis_url is not None
    place = Place(info.bootstrap_servers, info.redis_url, tmp_path / "data")
    log = trained.events()
    rankings = trained.rankings()

    began = time.monotonic()
    run_in_peace(place, trained)
    peace_s = time.monotonic() - began
    peaceful = Outcome.read(place.bootstrap)
    written = sum(1 for topic in RECOMMENDATION_TOPICS for _ in read_topic(place.bootstrap, topic))
    states = latest(place.bootstrap, STATE_CHANGELOG)
    check_all(place, trained, peaceful)
    difference = check_scores(peaceful, rankings, Removed())
    print(
        f"\n{source}: {len(peaceful.lists['videos'])} users, {len(log)} events, trained in {trained_s:.0f} s; "
        f"served in {peace_s:.0f} s, {written} lists written; largest difference from PyTorch {difference:.1e}; "
        f"largest state {max(map(len, states.values()))} bytes"
    )
    kcat = shutil.which("kcat")
    if kcat is None:
        print("kcat is not on PATH: what other tools read was not compared")
    else:
        for topic in RECOMMENDATION_TOPICS:
            check_kcat(kcat, place.bootstrap, topic)
        print(f"{kcat} reads the same last lists")

    place.clear()
    began = time.monotonic()
    run_under_kills(place, trained)
    kills_s = time.monotonic() - began
    disturbed = Outcome.read(place.bootstrap)
    check_all(place, trained, disturbed)
    print(
        f"{source}: three kills and a guest in {kills_s:.0f} s: the same states; largest difference of a score from "
        f"the run in peace {check_same(disturbed, peaceful):.1e}, from PyTorch "
        f"{check_scores(disturbed, rankings, Removed()):.1e}"
    )


def check_all(place: Place, trained: TrainedLog, outcome: Outcome) -> None:
    """Every promise that can be checked on a run's own outcome, over all users."""
    log = trained.events()
    check_states(place.bootstrap, log, trained.history)
    check_triggers(place.bootstrap, log)
    check_origins(place.bootstrap, outcome)
    check_redis(place.bootstrap, place.redis_url)
    check_promises(log, trained, outcome, Removed())
    assert not list(read_topic(place.bootstrap, DEAD_LETTERS))


def run_in_peace(place: Place, trained: TrainedLog) -> None:
    """One worker, and everything published as fast as it goes."""
    lsvcr("publish", *trained.files(VIDEOS, COMMENTS), *place.to_broker())
    with place.worker(trained) as worker:
        worker.wait_ready(PATIENCE_S)
        lsvcr("publish", *trained.files(VIDEO_VIEWS, COMMENT_INTERACTIONS), *place.to_broker())
        wait_until_committed(place.bootstrap, worker)
        assert worker.stop() == 0


def run_under_kills(place: Place, trained: TrainedLog) -> None:
    """Three kills while events come, then a second worker that joins and leaves while events come."""
    lsvcr("publish", *trained.files(VIDEOS, COMMENTS), *place.to_broker())
    parts = split(trained, place.folder / "parts", 5)
    first, guest = place.worker(trained), place.worker(trained, "1")
    with first, guest:
        first.wait_ready(PATIENCE_S)
        guest.wait_ready(PATIENCE_S)
        assert guest.stop() == 0
        for part in parts[:3]:
            with publishing(place, part) as publishers:
                wait_for_lists(first)
                first.kill()
                assert publishers[0].poll() is None, "all was published before the kill; lower RATE"
                first.start().wait_ready(PATIENCE_S)
        with publishing(place, parts[3]):
            guest.start().wait_ready(PATIENCE_S)
        with publishing(place, parts[4]) as publishers:
            wait_for_lists(guest)
            assert publishers[0].poll() is None, "all was published before the guest left; lower RATE"
            assert guest.stop() == 0
        wait_until_committed(place.bootstrap, first)
        assert first.stop() == 0


def wait_for_lists(worker: WorkerProcess) -> None:
    """Until the worker has made more lists than now."""
    at = worker.metric("lsvcr_recommendations_total")
    worker.wait(lambda: worker.metric("lsvcr_recommendations_total") > at, PATIENCE_S, "recommending")


def split(trained: TrainedLog, out: Path, count: int) -> list[Path]:
    """The event files in `count` folders, each with the next part of each file."""
    folders = [out / str(number) for number in range(count)]
    for file in trained.files(VIDEO_VIEWS, COMMENT_INTERACTIONS):
        lines = file.read_bytes().splitlines(keepends=True)
        for number, folder in enumerate(folders):
            folder.mkdir(parents=True, exist_ok=True)
            part = lines[number * len(lines) // count : (number + 1) * len(lines) // count]
            (folder / file.name).write_bytes(b"".join(part))
    return folders


@contextmanager
def publishing(place: Place, part: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both event files of a part on their way at once, at a steady rate; at the end they have arrived."""
    publishers = [
        subprocess.Popen(
            command_line("publish", file, *place.to_broker(), "--rate", str(RATE)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
        )
        for file in sorted(part.iterdir())
    ]
    try:
        yield publishers
        assert [publisher.wait(PATIENCE_S) for publisher in publishers] == [0, 0]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.wait()
