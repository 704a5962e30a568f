"""The archive holds each record exactly once, however often its process was killed."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer
from pyarrow import parquet
from support.topic_reader import read_topic
from support.traffic import make_events, publish
from support.whole_path import command_line, lsvcr
from support.worker_process import REPOSITORY

from model_runtime.stores import FolderStore
from streams.archive_files import TOPICS, Part, read_rows
from streams.events import Comment, Video
from streams.publisher import Publisher
from streams.topics import VIDEO_VIEWS

pytestmark = pytest.mark.integration

KILLS = 10


def flags(bootstrap: str, folder: Path) -> list[str]:
    return ["archive", "--to", str(folder), "--bootstrap-servers", bootstrap]


def start(bootstrap: str, folder: Path) -> subprocess.Popen[bytes]:
    often = ["--flush-seconds", "0.2", "--flush-records", "200", "--compact-files", "3"]
    with (folder.parent / "archive.log").open("ab") as out:
        return subprocess.Popen(
            command_line(*flags(bootstrap, folder), *often), stdout=out, stderr=out, cwd=REPOSITORY, env=os.environ
        )


def test_ten_kills_leave_each_record_exactly_once(fresh_topics: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    log = make_events(30_000, users=500)
    for topic in TOPICS:
        (folder / topic).mkdir(parents=True)
    publisher = threading.Thread(target=publish, args=(fresh_topics, log), kwargs={"rate": 800.0})
    publisher.start()
    with Publisher(fresh_topics) as catalog:
        for i in range(2_000):
            catalog.publish(Video(f"video-{i % 700:05d}", f"title {i}"))
            catalog.publish(Comment(f"comment-{i}", f"video-{i % 200:05d}", "a text"))
        for i in range(50):
            catalog.remove_video(f"video-{i:05d}")
    bad = Producer({"bootstrap.servers": fresh_topics, "log_level": 2})
    for i in range(100):
        bad.produce(VIDEO_VIEWS, b"\xffnot JSON %d" % i, b"user-%d" % i if i % 2 else None)
    bad.flush(30)
    rng = random.Random(0)
    for _ in range(KILLS):
        before = count(folder)
        process = start(fresh_topics, folder)
        until = time.monotonic() + 30
        while count(folder) == before:
            assert process.poll() is None, (tmp_path / "archive.log").read_text()[-2000:]
            assert time.monotonic() < until, "nothing is archived"
            time.sleep(0.02)
        time.sleep(rng.random())
        process.kill()
        process.wait()
    publisher.join()
    lsvcr(*flags(fresh_topics, folder), "--once", "--compact-files", "3")

    store = FolderStore(folder)
    for topic in TOPICS:
        expected = {
            (record.partition(), record.offset()): (record.key(), record.value(), record.timestamp()[1])
            for record in read_topic(fresh_topics, topic)
        }
        found = Counter[tuple[int, int]]()
        for (_, partition), table in read_rows(store, topic):
            for row in table.to_pylist():
                place = partition, row["offset"]
                found[place] += 1
                assert (row["key"], row["value"], row["timestamp_ms"]) == expected[place]
        assert found.keys() == expected.keys()
        assert set(found.values()) == {1}
        # A program that knows nothing of this format finds them once as well.
        plain = [parquet.read_metadata(path).num_rows for path in (folder / topic).rglob("*.parquet")]
        assert sum(plain) == len(expected)
    parts = [Part.parse(name) for name in store.names()]
    merged = [part for part in parts if part is not None and part.files == 1 and part.rows > 1000]
    assert merged, "nothing was compacted"
    assert lsvcr(*flags(fresh_topics, folder), "--once").startswith("archived 0 records")


def count(folder: Path) -> int:
    """A number that grows with what is archived."""
    parts = [Part.parse(path.relative_to(folder).as_posix()) for path in folder.rglob("*.parquet")]
    return sum(part.last for part in parts if part is not None)
