"""What becomes of events that were read before the partitions were given up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from streams.fetcher import Round
from streams.intake import SLICE_RECORDS, BatchConsumer

PLACE = ("video-views", 0)


def consumer(taken: list[list[int]], rounds: list[Round]) -> Any:
    """What `_deliver` needs of a consumer, with rounds of its own."""
    events = SimpleNamespace(epoch=1, failure=None, arrived=asyncio.Event())
    events.take = lambda: rounds.pop(0) if rounds else events.arrived.clear()
    made = SimpleNamespace(
        _events=events,
        should_stop=False,
        flow_active=True,
        can_resume_flow=asyncio.Event(),
        suspend_flow=asyncio.Event(),
    )
    made.handler = SimpleNamespace(full=False, take=lambda topic, partition, part: taken.append(part))
    made._may_take = lambda epoch: BatchConsumer._may_take(made, epoch)
    made.wait = lambda event: event.wait()
    return made


def test_what_was_read_for_an_assignment_that_is_over_is_not_handed_over() -> None:
    async def test() -> None:
        taken: list[list[int]] = []
        old = list(range(2 * SLICE_RECORDS))
        one = consumer(taken, [Round(1, {PLACE: old}), Round(2, {PLACE: [7]})])  # type: ignore[dict-item]

        def take(topic: str, partition: int, part: list[int]) -> None:
            taken.append(part)
            one.flow_active = len(taken) != 1  # a rebalance begins after the first slice

        one.handler.take = take
        one._events.arrived.set()
        delivering = asyncio.create_task(BatchConsumer._deliver(one))
        await asyncio.sleep(0.05)
        assert taken == [old[:SLICE_RECORDS]]
        one._events.epoch = 2
        one.flow_active = True
        one.can_resume_flow.set()
        await asyncio.sleep(0.05)
        delivering.cancel()
        assert taken == [old[:SLICE_RECORDS], [7]]

    asyncio.run(test())
