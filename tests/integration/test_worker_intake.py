"""What the worker does with events that are bad, misrouted, repeated, late or compressed."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from support.outcome import check_states, check_triggers
from support.topic_reader import read_topic
from support.traffic import make_events, publish
from support.worker_process import WorkerProcess

from streams import events
from streams.topics import COMMENT_INTERACTIONS, DEAD_LETTERS, VIDEO_VIEWS

pytestmark = pytest.mark.integration


@pytest.fixture
def worker(fresh_topics: str, redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    command = ("-m", "tests.support.constant_worker")
    with WorkerProcess(fresh_topics, redis_url, tmp_path, command=command) as running:
        yield running.wait_ready()


def good(**changes: Any) -> dict[str, Any]:
    view = {"event_id": "e", "user_id": "u", "video_id": "v", "ts_ms": 1_700_000_000_000, "watch_ms": 20_000}
    return {**view, **changes}


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in good().items() if name != field}


def bad_records() -> list[tuple[str, str, bytes | None, bytes | None, str, str]]:
    """name, topic, key, value, expected error, and a word that the reason must hold"""
    dump = lambda value: json.dumps(value).encode()  # noqa: E731
    interaction = {"event_id": "e", "user_id": "u", "video_id": "v", "ts_ms": 1, "comment_id": "c", "action": "like"}
    tomorrow = int(time.time() * 1000) + 3 * 24 * 3600 * 1000
    return [
        ("not JSON", VIDEO_VIEWS, b"u", b"hello", "not-json", "JSON"),
        ("half an object", VIDEO_VIEWS, b"u", dump(good())[:-7], "not-json", "JSON"),
        ("binary noise", VIDEO_VIEWS, b"u", bytes(range(256)), "not-json", "JSON"),
        ("not UTF-8", VIDEO_VIEWS, b"u", dump(good()).replace(b'"v"', b'"\xff"'), "not-json", "UTF-8"),
        ("gzip", VIDEO_VIEWS, b"u", gzip.compress(dump(good())), "not-json", "JSON"),
        ("empty value", VIDEO_VIEWS, b"u", b"", "empty", "empty"),
        ("null value", VIDEO_VIEWS, b"u", None, "empty", "empty"),
        ("a list", VIDEO_VIEWS, b"u", b"[1,2]", "not-object", "object"),
        ("null JSON", VIDEO_VIEWS, b"u", b"null", "not-object", "object"),
        ("missing field", VIDEO_VIEWS, b"u", dump(without("watch_ms")), "missing-field", "watch_ms"),
        ("missing id", VIDEO_VIEWS, b"u", dump(without("event_id")), "missing-field", "event_id"),
        ("wrong type", VIDEO_VIEWS, b"u", dump(good(watch_ms="20000")), "invalid-field", "watch_ms"),
        ("a float", VIDEO_VIEWS, b"u", dump(good(ts_ms=1.5)), "invalid-field", "ts_ms"),
        ("negative time", VIDEO_VIEWS, b"u", dump(good(watch_ms=-1)), "invalid-field", "watch_ms"),
        ("empty id", VIDEO_VIEWS, b"u", dump(good(video_id="")), "invalid-field", "video_id"),
        ("long id", VIDEO_VIEWS, b"u", dump(good(video_id="x" * 129)), "invalid-field", "video_id"),
        ("unknown action", VIDEO_VIEWS, b"u", dump(good(actions=["dance"])), "invalid-field", "dance"),
        ("future", VIDEO_VIEWS, b"u", dump(good(ts_ms=tomorrow)), "future-time", "ts_ms"),
        ("huge", VIDEO_VIEWS, b"u", dump(good(note="x" * 70_000)), "too-large", "65536"),
        ("very huge", VIDEO_VIEWS, b"u", dump(good(note="x" * 900_000)), "too-large", "65536"),
        ("wrong key", VIDEO_VIEWS, b"somebody-else", dump(good()), "wrong-key", "user_id"),
        ("no key", VIDEO_VIEWS, None, dump(good()), "missing-key", "key"),
        ("other type", COMMENT_INTERACTIONS, b"u", dump(good()), "missing-field", "comment_id"),
        (
            "unknown comment action",
            COMMENT_INTERACTIONS,
            b"u",
            dump({**interaction, "action": "?"}),
            "invalid-field",
            "action",
        ),
        ("nested", VIDEO_VIEWS, b"u", b"[" * 30_000, "not-", ""),
    ]


def test_bad_events_become_dead_letters_and_the_worker_goes_on(worker: WorkerProcess, fresh_topics: str) -> None:
    sent = bad_records()
    producer = Producer({"bootstrap.servers": fresh_topics, "message.max.bytes": 2_000_000, "log_level": 2})
    places: dict[str, tuple[int, int]] = {}
    for name, topic, key, value, *_ in sent:
        producer.produce(
            topic, value, key, on_delivery=lambda _, m, name=name: places.update({name: (m.partition(), m.offset())})
        )
    producer.flush(30)
    log = make_events(200, users=20)
    publish(fresh_topics, log)
    worker.wait_caught_up()

    letters = {
        (headers["source-topic"], int(headers["source-partition"]), int(headers["source-offset"])): (letter, headers)
        for letter in read_topic(fresh_topics, DEAD_LETTERS)
        for headers in [{name: value.decode() for name, value in letter.headers()}]
    }
    assert len(letters) == len(sent)
    for name, topic, key, value, error, word in sent:
        letter, headers = letters[(topic, *places[name])]
        assert (letter.key(), letter.value()) == (key, value), name
        assert headers["error"].startswith(error), (name, headers)
        assert word in headers["reason"], (name, headers)
        assert int(headers["source-timestamp"]) > 0
    check_states(fresh_topics, log)
    assert worker.metric("lsvcr_rejected_events_total") == len(sent)


def test_events_hashed_by_librdkafka_reach_the_one_state_of_their_user(
    worker: WorkerProcess, fresh_topics: str
) -> None:
    log = make_events(3_000, users=100)
    publish(fresh_topics, log, partitioner="consistent_random")
    worker.wait_caught_up()
    check_states(fresh_topics, log)  # also fails if a user stands on two partitions
    check_triggers(fresh_topics, log)
    assert worker.metric("lsvcr_forwarded_events_total") > 1000


def test_an_event_forwarded_before_is_rejected_not_forwarded_again(worker: WorkerProcess, fresh_topics: str) -> None:
    event = make_events(1, users=1)[0]
    from support.traffic import topic_of

    from streams.topics import DEFAULT_PARTITIONS, partition_of

    wrong = (partition_of(event.user_id.encode(), DEFAULT_PARTITIONS) + 1) % DEFAULT_PARTITIONS
    producer = Producer({"bootstrap.servers": fresh_topics, "log_level": 2})
    value = events.encode(event)
    producer.produce(topic_of(event), value, event.user_id, wrong, headers=[("lsvcr-forwarded", b"0")])
    producer.flush(30)
    worker.wait_caught_up()
    (letter,) = read_topic(fresh_topics, DEAD_LETTERS)
    assert dict(letter.headers())["error"] == b"wrong-partition"


def test_repeated_and_late_events_change_nothing_more(worker: WorkerProcess, fresh_topics: str) -> None:
    log = make_events(2_000, users=5)
    publish(fresh_topics, log)
    publish(fresh_topics, log[500:1_500])
    publish(fresh_topics, log[:100])
    worker.wait_caught_up()
    check_states(fresh_topics, log)
    check_triggers(fresh_topics, log)
