"""A guard against writing for partitions that were given to others while this process was suspended.

The broker gives a silent member's partitions away after the session timeout. A process that was stopped (SIGSTOP, a
frozen virtual machine) learns of it only at its next heartbeat, and would meanwhile write old states behind newer ones.
It can tell by the clock, though: its own event loop did not run for that long, and drops what it had pending.

What was already handed to the producer in the last milliseconds before the suspension is not covered: it is sent when
the process goes on.
"""

from __future__ import annotations

import asyncio
import time

TICK_S = 0.25


class Lease:
    """Expired once the event loop stood still for most of a session; renewed by the next assignment."""

    def __init__(self, session_timeout_s: float) -> None:
        self._limit_s = session_timeout_s * 0.8
        self._ticked_at = time.monotonic()
        self._expired = False

    @property
    def expired(self) -> bool:
        """Whether the partitions may be somebody else's by now."""
        if time.monotonic() - self._ticked_at > self._limit_s:
            self._expired = True
        return self._expired

    def renew(self) -> None:
        """The group has just given us partitions."""
        self._ticked_at = time.monotonic()
        self._expired = False

    async def keep(self) -> None:
        """Tick for as long as the event loop runs."""
        while True:
            if not self.expired:
                self._ticked_at = time.monotonic()
            await asyncio.sleep(TICK_S)
