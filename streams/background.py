"""Users to score again although nothing happened to them: their lists are a retired model's.

They come behind live traffic and at a bounded rate, so that a swap is no burst; those who were active last come first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

#: users a second
RATE = 200.0
#: at most so many users at once: what a live event waits for, should it arrive meanwhile
BATCH = 8


class Background:
    """A queue of users, handed out at `rate` a second while at most `unconfirmed` of their lists are under way."""

    def __init__(self, rate: float = RATE, unconfirmed: int = 200, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.under_way = 0  # users whose lists the broker has not confirmed yet
        self._most_under_way = unconfirmed
        self._clock = clock
        self._users: dict[bytes, None] = {}
        self._next_at = 0.0

    def __len__(self) -> int:
        return len(self._users)

    def put(self, users: Iterable[bytes]) -> None:
        """Queue users, those to come first first, before whoever is queued still."""
        self._users = dict.fromkeys(users) | self._users

    def drop(self, user: bytes) -> None:
        """The user is being scored anyway."""
        self._users.pop(user, None)

    def take(self) -> list[bytes]:
        """Who may be scored now; nobody while it is too early (`delay` tells) or too much is unconfirmed."""
        if self.delay() != 0:
            return []
        users = [user for user, _ in zip(self._users, range(BATCH), strict=False)]
        for user in users:
            del self._users[user]
        self._next_at = max(self._next_at, self._clock() - BATCH / self.rate) + len(users) / self.rate
        return users

    def delay(self) -> float | None:
        """Seconds until somebody may be scored; None: nobody waits."""
        if not self._users:
            return None
        if self.under_way >= self._most_under_way:
            return 0.1
        return max(0.0, self._next_at - self._clock())

    def clear(self) -> None:
        """Forget everybody: the partitions are no longer ours."""
        self._users.clear()
        self.under_way = 0
