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


#: The flow stops when a round of events was read, as at the beginning of a rebalance: once before anything of it was
#: handed over, and once in its middle.
SUSPENDED = """
import asyncio, sys
from streams import fetcher, intake
from streams.intake import BatchConsumer
from tests.support import constant_worker

intake.SLICE_RECORDS = 50
take = fetcher.Fetcher.take
consumers, left, taken_while_stopped = [], ["middle", "beginning"], []
start = BatchConsumer.on_start

async def on_start(self):
    await start(self)
    consumers.append(self)
    handled = self.handler.take
    def watched(*slice_):
        if not self.flow_active:
            taken_while_stopped.append(slice_)
        handled(*slice_)
        if len(slice_[2]) == 50 and left == ["middle"]:
            left.pop()
            suspend()
    self.handler.take = watched

def suspend():
    consumers[0].stop_flow()
    asyncio.get_running_loop().call_later(0.2, consumers[0].resume_flow)

def suspending(self):
    round_ = take(self)
    if round_ is not None and left == ["middle", "beginning"]:
        left.pop()
        suspend()
    return round_

BatchConsumer.on_start = on_start
fetcher.Fetcher.take = suspending
code = constant_worker.main()
sys.exit(code or len(left) + len(taken_while_stopped))
"""


def test_what_was_read_when_the_flow_is_suspended_waits_for_its_end(own_stack: LocalStack, tmp_path: Path) -> None:
    """Nothing is handed over meanwhile, and nothing is lost: nobody seeks after a mere suspension."""
    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    assert bootstrap is not None
    assert redis_url is not None
    log = make_events(6000, users=300)  # windows don't overflow: a producer's retries may change the order
    publish(bootstrap, log)
    with WorkerProcess(bootstrap, redis_url, tmp_path, command=("-c", SUSPENDED)) as worker:
        worker.wait_ready()
        wait_until_committed(bootstrap, worker)
        assert worker.stop() == 0, "not suspended twice, or events were taken meanwhile"
    check_states(bootstrap, log)
    check_triggers(bootstrap, log)
