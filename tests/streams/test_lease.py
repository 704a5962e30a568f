"""A process that stood still for most of a session may no longer write."""

from __future__ import annotations

import asyncio

import pytest

from streams import lease as module
from streams.lease import Lease


def test_standing_still_ends_the_lease_until_the_next_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    lease = Lease(session_timeout_s=10)
    now += 7.9
    assert not lease.expired
    now += 0.2
    assert lease.expired
    now -= 5  # whatever the clock says later, the partitions are not ours again by themselves
    assert lease.expired
    lease.renew()
    assert not lease.expired


def test_a_running_loop_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.01)

    async def main() -> bool:
        lease = Lease(session_timeout_s=1.0)
        keeping = asyncio.create_task(lease.keep())
        await asyncio.sleep(1.2)
        keeping.cancel()
        return lease.expired

    assert not asyncio.run(main())
