"""The whole path as a person walks it, by commands, and its promises checked on what came out at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from support.outcome import KINDS, last_lists
from support.topic_reader import latest, read_log, read_topic
from support.worker_process import REPOSITORY, WorkerProcess

from model_runtime.bundle import Bundle
from model_runtime.registry import Registry
from streams import events
from streams.events import CommentInteraction, Event, VideoView
from streams.history import HistoryConfig, engages, event_digest
from streams.recommendations import CommentRecommendations, Kind, Recommendations
from streams.topics import APP_ID, CATALOG_TOPICS, COMMENTS, EVENT_TOPICS
from streams.whole_topic import first_and_end

if TYPE_CHECKING:
    from offline_train.reference import ReferenceRanking

#: the promise: streamed scores equal the trainer's
TOLERANCE = 1e-4
#: What is asked of PyTorch beyond the length of a list: room for removed items, and for equals around the end.
SPARE = 200
TOP: dict[Kind, int] = {"videos": 100, "comments": 50}


def lsvcr(*arguments: str | Path, timeout: float = 1800) -> str:
    """Run a command to its end and return what it printed; fails, with all that it said, unless it exits with 0."""
    # Threads that wait for a core of a busy machine take longer than the work.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command_line(*arguments), capture_output=True, text=True, cwd=REPOSITORY, timeout=timeout, env=env
    )
    assert done.returncode == 0, f"lsvcr {arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def command_line(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "infra.cli", *map(str, arguments)]


@dataclass(frozen=True)
class TrainedLog:
    """A log and what `lsvcr train fit` made of it."""

    folder: Path
    registry: Path
    version: str
    checkpoint: Path

    @staticmethod
    def fit(folder: Path, registry: Path, *flags: str) -> TrainedLog:
        """Train on the log and promote the result on the channel `stable`."""
        printed = lsvcr("train", "fit", "--log", folder, "--registry", registry, "--text", "svd", "--json", *flags)
        return TrainedLog.promoted(folder, registry, printed)

    @staticmethod
    def promoted(folder: Path, registry: Path, printed: str) -> TrainedLog:
        """What a training with `--json` printed of itself."""
        fitted = json.loads(printed)
        assert Registry(registry).channel("stable") == fitted["version"], fitted
        return TrainedLog(folder, registry, fitted["version"], Path(fitted["checkpoint"]))

    @cached_property
    def bundle(self) -> Bundle:
        return Registry(self.registry).open(self.version)  # reads and verifies every file

    @cached_property
    def history(self) -> HistoryConfig:
        """What the worker remembers of a user when it serves this model."""
        return msgspec.convert(self.bundle.manifest.history, HistoryConfig)

    def events(self) -> list[Event]:
        return [event for records in read_log(self.folder).values() for event in records]  # type: ignore[misc]

    def comment_video(self) -> dict[str, str]:
        """The video of each comment, by the catalog."""
        lines = (self.folder / f"{COMMENTS}.jsonl").read_bytes().splitlines()
        comments = msgspec.json.Decoder(events.Comment)
        return {entry.comment_id: entry.video_id for entry in map(comments.decode, lines)}

    def files(self, *topics: str) -> list[Path]:
        return [self.folder / f"{topic}.jsonl" for topic in topics]

    def rankings(self, spare: int = SPARE) -> dict[str, ReferenceRanking]:
        """PyTorch's ranking of every user, for the state that the trainer's code computes from the log."""
        from offline_train.corpus import final_states
        from offline_train.log import Log
        from offline_train.reference import Reference

        states = final_states(Log.read(self.folder, self.history), self.history)
        reference = Reference.load(self.checkpoint)
        return reference.score_users(states, top_videos=TOP["videos"] + spare, top_comments=TOP["comments"] + spare)


@dataclass(frozen=True)
class Outcome:
    """Every user's last lists, as they stand on the topics."""

    lists: dict[Kind, dict[str, Recommendations]]

    @staticmethod
    def read(bootstrap: str) -> Outcome:
        return Outcome({kind: last_lists(bootstrap, kind) for kind in KINDS})


@dataclass
class Removed:
    """What was taken out of the catalog before the last events."""

    videos: set[str] = field(default_factory=set)
    comments: set[str] = field(default_factory=set)


def wait_until_committed(bootstrap: str, *workers: WorkerProcess, timeout: float = 300) -> None:
    """Until the workers' group has committed the end of every event partition: the broker's own word for "all done".

    Fails at once if one of `workers` has ended.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": APP_ID, "enable.auto.commit": False})
    try:
        found = consumer.list_topics(timeout=10).topics
        places = [TopicPartition(topic, p) for topic in EVENT_TOPICS for p in found[topic].partitions]
        ends = {
            (place.topic, place.partition): first_and_end(consumer, place.topic, place.partition)[1] for place in places
        }
        until = time.monotonic() + timeout
        while True:
            committed = {(place.topic, place.partition): place.offset for place in consumer.committed(places, 10)}
            left = {place: end - committed[place] for place, end in ends.items() if end > max(0, committed[place])}
            if not left:
                return
            for worker in workers:
                code = worker.process.poll()
                assert code is None, f"the worker ended with {code}:\n{worker.tail()}"
            assert time.monotonic() < until, f"after {timeout} s these records are not confirmed: {left}"
            time.sleep(0.2)
    finally:
        consumer.close()


def wait_until_catalog_read(worker: WorkerProcess, bootstrap: str) -> None:
    """Until the worker has read all of the catalog: records that are none go to the end, and it counts those."""
    at = worker.metric("lsvcr_catalog_rejected_total")
    producer = Producer({"bootstrap.servers": bootstrap})
    for topic in CATALOG_TOPICS:
        for partition in producer.list_topics(topic, timeout=10).topics[topic].partitions:
            producer.produce(topic, b"no entry", b"the end", partition=partition)
            at += 1
    producer.flush()
    worker.wait(lambda: worker.metric("lsvcr_catalog_rejected_total") == at, 30, "at the catalog's end")


def check_promises(log: Sequence[Event], trained: TrainedLog, outcome: Outcome, removed: Removed) -> None:
    """Every user has both lists, made by the one model, of items that may be recommended to that user."""
    users = {event.user_id for event in log}
    seen, hated, known = _by_user(log, trained.history)
    comment_video = trained.comment_video()
    wrong: list[str] = []
    for kind in KINDS:
        lists = outcome.lists[kind]
        assert lists.keys() == users, f"{kind}: lists for {len(lists)} of {len(users)} users"
        for user, found in lists.items():
            ids = [item.id for item in found.items]
            if found.user_id != user or found.model_version != trained.version or found.source != "model":
                wrong.append(f"{kind} of {user}: {found.user_id}, {found.model_version}, {found.source}")
            if len(set(ids)) != len(ids):
                wrong.append(f"{kind} of {user}: an item twice")
            if sorted((item.score for item in found.items), reverse=True) != [item.score for item in found.items]:
                wrong.append(f"{kind} of {user}: not best first")
            if isinstance(found, CommentRecommendations):
                forbidden = known[user] | removed.comments
                elsewhere = [id_ for id_ in ids if comment_video[id_] != found.video_id]
                if elsewhere or (ids and found.video_id in removed.videos):
                    wrong.append(f"comments of {user}: not under {found.video_id}: {elsewhere[:3] or ids[:3]}")
            else:
                forbidden = seen[user] | hated[user] | removed.videos
                if not ids:
                    wrong.append(f"videos of {user}: an empty list")
            if bad := forbidden.intersection(ids):
                wrong.append(f"{kind} of {user}: seen, hated or removed: {sorted(bad)[:3]}")
    assert not wrong, f"{len(wrong)} lists break a promise, e.g. {wrong[:5]}"


def check_origins(bootstrap: str, outcome: Outcome) -> None:
    """Where a list says that its trigger was read, there it is."""
    at: dict[tuple[str, int, int], tuple[str, str, int]] = {}
    for topic in EVENT_TOPICS:
        for record in read_topic(bootstrap, topic):
            event: Any = events.decode_value(topic, record.value(), now_ms=2**52)
            at[(topic, record.partition(), record.offset())] = (event.user_id, event.event_id, event.ts_ms)
    for kind in KINDS:
        for user, found in outcome.lists[kind].items():
            trigger = found.trigger
            place = (trigger.topic, trigger.partition, trigger.offset)
            assert at[place] == (user, trigger.event_id, trigger.ts_ms), f"{kind} of {user}: {place}"


def check_scores(
    outcome: Outcome, rankings: Mapping[str, ReferenceRanking], removed: Removed, users: Sequence[str] | None = None
) -> float:
    """The lists hold PyTorch's items with PyTorch's scores; returns the largest difference of a score."""
    worst = 0.0
    for user in rankings if users is None else users:
        ranking = rankings[user]
        videos = [(id_, score) for id_, score in ranking.videos if id_ not in removed.videos]
        under = outcome.lists["comments"][user]
        assert isinstance(under, CommentRecommendations)
        comments = [(id_, score) for id_, score in ranking.comments if id_ not in removed.comments]
        if under.video_id in removed.videos:
            comments = []
        worst = max(
            worst,
            compare(outcome.lists["videos"][user], videos, TOP["videos"]),
            compare(under, comments, TOP["comments"]),
        )
    return worst


def check_same(outcome: Outcome, other: Outcome) -> float:
    """Two runs led to the same lists; returns the largest difference of a score."""
    worst = 0.0
    for kind in KINDS:
        assert outcome.lists[kind].keys() == other.lists[kind].keys()
        for user, found in outcome.lists[kind].items():
            expected = other.lists[kind][user]
            assert found.trigger.event_id == expected.trigger.event_id, f"{kind} of {user}: another trigger"
            items = [(item.id, item.score) for item in expected.items]
            worst = max(worst, compare(found, items, len(items)))
    return worst


def compare(found: Recommendations, expected: Sequence[tuple[str, float]], top: int) -> float:
    """The list is the `top` best of `expected` (best first), up to swaps of items within `TOLERANCE`.

    Returns the largest difference of an item's score.
    """
    who = f"{type(found).__name__} of {found.user_id}"
    place = dict(expected)
    wanted = expected[:top]
    assert len(found.items) == len(wanted), f"{who}: {len(found.items)} items, {len(wanted)} expected"
    if not wanted:
        return 0.0
    worst = 0.0
    bound = wanted[-1][1] - TOLERANCE
    for item in found.items:
        # An item that is not expected at all can only have replaced one of the same score at the end of the list.
        difference = abs(item.score - place.get(item.id, wanted[-1][1]))
        assert difference <= TOLERANCE, f"{who}: {item.id} has {item.score}, {place.get(item.id)} expected"
        assert item.score >= bound, f"{who}: {item.id} has {item.score}, below the {top} best"
        worst = max(worst, difference)
    for at, (item, (_, score)) in enumerate(zip(found.items, wanted, strict=True)):
        assert abs(item.score - score) <= TOLERANCE, f"{who}: place {at + 1} has {item.score}, {score} expected"
    return worst


def kcat_latest(kcat: str, bootstrap: str, topic: str) -> dict[str, bytes]:
    """The last value per key, as another tool reads the topic."""
    done = subprocess.run(
        [kcat, "-C", "-q", "-b", bootstrap, "-t", topic, "-e", "-o", "beginning", "-f", "%k\t%s\n"],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return {key.decode(): value for key, value in (line.split(b"\t", 1) for line in done.stdout.splitlines())}


def check_kcat(kcat: str, bootstrap: str, topic: str) -> None:
    """Another tool reads the same last list of every user."""
    expected, found = latest(bootstrap, topic), kcat_latest(kcat, bootstrap, topic)
    assert found.keys() == expected.keys()
    assert found == expected, [user for user, value in expected.items() if found[user] != value][:3]


def _by_user(
    log: Sequence[Event], config: HistoryConfig
) -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    """Per user: videos viewed or interacted with, videos hated, comments in the history."""
    seen: dict[str, set[str]] = defaultdict(set)
    hated: dict[str, set[str]] = defaultdict(set)
    known: dict[str, list[CommentInteraction]] = defaultdict(list)
    for event in log:
        seen[event.user_id].add(event.video_id)
        if isinstance(event, VideoView):
            if event.actions and "hate" in event.actions:
                hated[event.user_id].add(event.video_id)
        elif engages(event, config):
            known[event.user_id].append(event)
    # Only what a history is sure to hold: it drops its oldest in blocks.
    kept = config.window - config.drop
    recent: dict[str, set[str]] = defaultdict(set)
    for user, mine in known.items():
        mine.sort(key=lambda event: (event.ts_ms, event_digest(event.event_id)))
        recent[user] = {event.comment_id for event in mine[-kept:]}
    return seen, hated, recent
