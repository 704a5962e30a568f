from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.background import BATCH, Background


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


USERS = [b"%d" % i for i in range(100)]


def test_users_come_at_a_bounded_rate_each_once_in_their_order() -> None:
    clock = Clock()
    background = Background(rate=20, clock=clock)
    background.put(USERS)
    taken: list[bytes] = []
    while (delay := background.delay()) is not None:
        clock.now += delay
        taken += background.take()
        assert len(taken) <= clock.now * 20 + 2 * BATCH
    assert taken == USERS
    assert clock.now >= (len(USERS) - 2 * BATCH) / 20
    assert background.take() == []


def test_nobody_comes_while_too_much_is_unconfirmed() -> None:
    background = Background(rate=1e9, unconfirmed=10)
    background.put(USERS)
    background.under_way = 10
    assert background.take() == []
    assert background.delay()
    background.under_way = 9
    assert background.take()


@given(st.lists(st.lists(st.integers(0, 20)), max_size=4), st.sets(st.integers(0, 20)))
def test_whoever_was_put_and_not_dropped_is_taken_once(puts: list[list[int]], dropped: set[int]) -> None:
    background = Background(rate=1e9)
    for users in puts:
        background.put(b"%d" % user for user in users)
    for user in dropped:
        background.drop(b"%d" % user)
    taken = []
    while len(background):
        taken += background.take()
    assert sorted(taken) == sorted(b"%d" % user for user in {u for users in puts for u in users} - dropped)
