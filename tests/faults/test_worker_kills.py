"""Workers are killed, join and leave in mid-stream; afterwards everything is as if nothing had happened."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from support.outcome import check_redis, check_states, check_triggers
from support.traffic import make_events, publish
from support.worker_process import WorkerProcess

from infra.local.stack import LocalStack
from streams.topics import DEFAULT_PARTITIONS

CONSTANT = ("-m", "tests.support.constant_worker")

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("events", "users", "rate"),
    [
        (15_000, 500, 600.0),  # slow enough that there is something left to publish after three restarts
        pytest.param(300_000, 5_000, 4_000.0, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_three_kills_and_a_second_worker_lose_nothing(
    own_stack: LocalStack, tmp_path: Path, events: int, users: int, rate: float
) -> None:
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    log = make_events(events, users=users)
    publisher = threading.Thread(target=publish, args=(bootstrap, log), kwargs={"rate": rate})
    first = WorkerProcess(bootstrap, redis_url, tmp_path, command=CONSTANT)
    second = WorkerProcess(bootstrap, redis_url, tmp_path, command=CONSTANT, worker_id="1")
    with first, second:
        first.wait_ready()
        second.wait_ready()
        assert second.stop() == 0
        publisher.start()
        for _ in range(3):
            at = first.metric("lsvcr_events_total")
            first.wait(lambda at=at: first.metric("lsvcr_events_total") > at, 60, "reading events")
            first.kill()
            first.start().wait_ready()
        second.start().wait_ready()
        joined = second.metric("lsvcr_events_total")
        time.sleep(1)
        second.wait(lambda: second.metric("lsvcr_events_total") >= joined, 30, "sharing the work")
        assert second.stop() == 0
        publisher.join()
        # Until it has the other one's partitions, it is caught up with half of the events.
        first.wait(lambda: len(first.health().get("partitions", ())) == DEFAULT_PARTITIONS, 60, "alone again")
        first.wait_caught_up()
        first.wait(lambda: first.metric("lsvcr_redis_behind_partitions") == 0, 60, "Redis has everything")
        assert first.stop() == 0
    check_states(bootstrap, log)
    check_triggers(bootstrap, log)
    check_redis(bootstrap, redis_url)


def test_redis_is_made_whole_after_an_outage(own_stack: LocalStack, tmp_path: Path) -> None:
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    log = make_events(6_000, users=300, seed=1)
    with WorkerProcess(bootstrap, redis_url, tmp_path, command=CONSTANT) as worker:
        worker.wait_ready()
        publish(bootstrap, log[:2_000])
        worker.wait_caught_up()
        own_stack.stop_redis()
        publish(bootstrap, log[2_000:4_000])
        worker.wait_caught_up()  # the stream goes on without Redis
        worker.wait(lambda: worker.metric("lsvcr_redis_up") == 0, 30, "aware that Redis is away")
        worker.kill()  # what was not written to Redis is not in any memory either
        worker.start().wait_ready()
        own_stack.start_redis()
        publish(bootstrap, log[4_000:])
        worker.wait_caught_up()
        worker.wait(lambda: worker.metric("lsvcr_redis_behind_partitions") == 0, 30, "Redis has everything")
        assert worker.stop() == 0
    check_states(bootstrap, log)
    check_redis(bootstrap, redis_url)


def test_a_killed_broker_is_waited_for(own_stack: LocalStack, tmp_path: Path) -> None:
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    log = make_events(4_000, users=200, seed=2)
    with WorkerProcess(bootstrap, redis_url, tmp_path, command=CONSTANT) as worker:
        worker.wait_ready()
        publish(bootstrap, log[:2_000])
        own_stack.kill_kafka()
        own_stack.start_kafka()
        publish(bootstrap, log[2_000:])
        worker.wait_caught_up()
        worker.stop()
    check_states(bootstrap, log)
    check_triggers(bootstrap, log)
    check_redis(bootstrap, redis_url)
