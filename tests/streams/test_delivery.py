"""Confirmed or reported, each once: what becomes of records when a real broker dies, or falls silent."""

import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.topic_reader import read_topic

from infra.local.stack import LocalStack
from streams import events, topics
from streams.publisher import Publisher, PublishError, VideoView

NOW_MS = time.time_ns() // 1_000_000


def view(number: int) -> VideoView:
    return VideoView(f"e{number}", f"u{number % 40}", "v1", NOW_MS + number, 5_000)


def warm(servers: str) -> None:
    """A broker that has just started takes seconds to its first answer: longer than impatient clients wait."""
    with Publisher(servers) as client:
        client.publish(view(0))


def views_written(servers: str) -> list[dict[str, Any]]:
    return [json.loads(record.value()) for record in read_topic(servers, topics.VIDEO_VIEWS)]


@contextmanager
def silent_broker(stack: LocalStack) -> Iterator[None]:
    """The broker is stopped, not dead: it takes connections and requests, and answers nothing until the end."""
    pid = stack.status().kafka_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def retries_counted() -> Iterator[threading.Semaphore]:
    """One permit per batch that the Kafka client is about to send again, as it says in its log."""
    retries = threading.Semaphore(0)

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "retrying" in record.getMessage():
                retries.release()

    log, handler = logging.getLogger("kafka.producer.sender"), Counting(logging.WARNING)
    log.addHandler(handler)
    try:
        yield retries
    finally:
        log.removeHandler(handler)


def times_written(servers: str) -> dict[int, int]:
    """How often each view stands on the topic, by its number."""
    return Counter(int(event["event_id"][1:]) for event in views_written(servers))


def order_per_user(servers: str) -> dict[str, list[int]]:
    """The numbers of each user's views, in the order of the topic."""
    orders: dict[str, list[int]] = {}
    for event in views_written(servers):
        orders.setdefault(event["user_id"], []).append(int(event["event_id"][1:]))
    return orders


@pytest.mark.integration
def test_a_broker_silent_for_too_long_fails_every_record_once_and_the_publisher_recovers(own_stack: LocalStack) -> None:
    servers = own_stack.up().bootstrap_servers
    warm(servers)
    # Short requests, so that records expire after they were sent: then the client forgets its producer id.
    client = Publisher(servers, delivery_timeout_s=5, connect_timeout_s=1, options={"request_timeout_ms": 1500})
    client.publish(view(61))
    client.flush()
    lost = [view(number) for number in range(1, 60)]
    with silent_broker(own_stack):
        for event in lost:
            client.publish(event)
        with pytest.raises(PublishError, match=r"59 record\(s\) were not confirmed") as caught:
            client.flush()
        assert [failure.value for failure in caught.value.failures] == [events.encode(event) for event in lost]
        client.flush()  # nothing is reported twice
        with pytest.raises(PublishError, match="no Kafka broker answers") as refused:
            client.publish(view(60))
        assert refused.value.failures == ()
    for number in range(100, 200):
        client.publish(view(number))
    client.flush()
    client.close()
    written = times_written(servers)
    assert [written.get(number, 0) for number in range(100, 200)] == [1] * 100
    assert 60 not in written
    for order in order_per_user(servers).values():
        after = [number for number in order if number >= 100]
        assert after == sorted(after)


@pytest.mark.integration
def test_closing_on_a_silent_broker_reports_what_is_lost_and_leaves_nothing_running(own_stack: LocalStack) -> None:
    servers = own_stack.up().bootstrap_servers
    warm(servers)
    threads = set(threading.enumerate())
    client = Publisher(servers, delivery_timeout_s=5, options={"request_timeout_ms": 1500})
    (sender,) = set(threading.enumerate()) - threads
    client.publish(view(2))
    client.flush()
    with silent_broker(own_stack):
        client.publish(view(1))
        with pytest.raises(PublishError, match=r"1 record\(s\) were not confirmed"):
            client.close()
        sender.join(timeout=60)
        assert not sender.is_alive()
    client.close()


@pytest.mark.integration
def test_a_batch_that_was_written_but_not_confirmed_is_not_written_again(own_stack: LocalStack) -> None:
    servers = own_stack.up().bootstrap_servers
    warm(servers)
    with Publisher(servers, options={"request_timeout_ms": 1500}) as client, retries_counted() as retries:
        client.publish(view(200))
        client.flush()
        with silent_broker(own_stack):  # what is sent to it now it will write, and have nobody to confirm it to
            for number in range(1, 200):
                client.publish(view(number))
            for _ in range(2):
                assert retries.acquire(timeout=60)
    assert times_written(servers) == dict.fromkeys(range(201), 1)
    for order in order_per_user(servers).values():
        later = [number for number in order if number != 200]
        assert later == sorted(later)


@pytest.mark.integration
def test_a_broker_that_is_killed_and_started_again_has_every_event_once(own_stack: LocalStack) -> None:
    servers = own_stack.up().bootstrap_servers
    with Publisher(servers) as client:
        for number in range(3000):
            client.publish(view(number))
            if number == 1000:
                own_stack.kill_kafka()
            if number == 2000:
                own_stack.start_kafka()
    assert times_written(servers) == dict.fromkeys(range(3000), 1)
    assert all(order == sorted(order) for order in order_per_user(servers).values())


@pytest.mark.integration
def test_a_dead_broker_fails_every_record_once_and_the_publisher_recovers(own_stack: LocalStack) -> None:
    servers = own_stack.up().bootstrap_servers
    client = Publisher(servers, delivery_timeout_s=5)
    client.publish(view(1))
    client.flush()
    own_stack.kill_kafka()
    lost = [view(number) for number in range(2, 30)]
    for event in lost:
        client.publish(event)
    with pytest.raises(PublishError, match=r"28 record\(s\) were not confirmed") as caught:
        client.flush()
    failures = caught.value.failures
    assert sorted(failure.value or b"" for failure in failures) == sorted(events.encode(event) for event in lost)
    assert {(failure.topic, failure.key) for failure in failures} == {("video-views", event.user_id) for event in lost}
    assert all(failure.reason for failure in failures)
    own_stack.start_kafka()
    for failure in failures:
        assert failure.value is not None
        client.publish(failure.value, topic=failure.topic)
    client.close()
    assert set(times_written(servers)) == set(range(1, 30))
