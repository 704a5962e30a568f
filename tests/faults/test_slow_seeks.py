"""Partitions are handed over under traffic, on a machine so slow that events are fetched before Faust has sought."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.outcome import check_redis, check_states, check_triggers
from support.traffic import make_events, publish
from support.whole_path import wait_until_committed
from support.worker_process import WorkerProcess

from infra.local.stack import LocalStack

pytestmark = pytest.mark.integration

#: After a recovery Faust first resumes the event partitions and then seeks; usually a few milliseconds lie between.
SLOW_SEEK = """
import asyncio, sys
from streams.intake import BatchConsumer
from tests.support import constant_worker

seek = BatchConsumer.seek_to_committed

async def slowly(self):
    await asyncio.sleep(0.3)  # less than the time between two commits: what is fetched meanwhile is not committed
    return await seek(self)

BatchConsumer.seek_to_committed = slowly
sys.exit(constant_worker.main())
"""


def test_events_fetched_before_the_seek_are_handled_once(own_stack: LocalStack, tmp_path: Path) -> None:
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    assert bootstrap is not None
    assert redis_url is not None
    log = make_events(20_000, users=300)
    publisher = threading.Thread(target=publish, args=(bootstrap, log), kwargs={"rate": 700.0})
    command = ("-c", SLOW_SEEK)
    first = WorkerProcess(bootstrap, redis_url, tmp_path, command=command)
    second = WorkerProcess(bootstrap, redis_url, tmp_path, command=command, worker_id="1")
    with first, second:
        first.wait_ready()
        second.wait_ready()
        publisher.start()
        first.wait(lambda: first.metric("lsvcr_recommendations_total") > 0, 60, "recommending")
        assert second.stop() == 0
        assert publisher.is_alive()
        publisher.join()
        wait_until_committed(bootstrap, first)
        assert first.stop() == 0
    check_states(bootstrap, log)
    check_triggers(bootstrap, log)
    check_redis(bootstrap, redis_url)


#: The flow stops while a fetch is under way, as at the beginning of a rebalance, so that what it brings is not handed
#: over: once before anything was, and once in the middle of a fetch.
SUSPENDED = """
import asyncio, sys
from streams import intake
from streams.intake import BatchConsumer
from tests.support import constant_worker

intake.SLICE_RECORDS = 50
fetch = BatchConsumer._wait_next_records
left = ["slices", "fetch"]

def suspend(consumer):
    consumer.stop_flow()
    asyncio.get_running_loop().call_later(0.2, consumer.resume_flow)

async def suspended(self, timeout):
    records, active = await fetch(self, timeout)
    events = [tp for tp in records or () if tp.topic in self.handler.topics]
    if events and left == ["slices", "fetch"]:
        left.pop()
        suspend(self)
    elif events and left and len(records[events[0]]) > 50:
        left.pop()
        handler, take = self.handler, self.handler.take
        def once(*slice_):
            handler.take = take
            take(*slice_)
            suspend(self)
        handler.take = once
    return records, active

BatchConsumer._wait_next_records = suspended
code = constant_worker.main()
sys.exit(code or len(left))
"""


def test_what_is_fetched_while_the_flow_is_suspended_is_read_again(own_stack: LocalStack, tmp_path: Path) -> None:
    """Also of partitions of which nothing was ever committed, so that there is nothing to seek back to."""
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    assert bootstrap is not None
    assert redis_url is not None
    log = make_events(6000, users=300)  # windows don't overflow: a producer's retries may change the order
    publish(bootstrap, log)
    with WorkerProcess(bootstrap, redis_url, tmp_path, command=("-c", SUSPENDED)) as worker:
        worker.wait_ready()
        wait_until_committed(bootstrap, worker)
        assert worker.stop() == 0, "not suspended twice"
    check_states(bootstrap, log)
    check_triggers(bootstrap, log)
