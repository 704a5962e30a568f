"""Redis never goes backwards, whoever writes, whatever the order."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from itertools import permutations
from random import Random
from typing import TypeVar

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from streams import latest
from streams.latest import LatestStore, Record, list_key, position_key

pytestmark = pytest.mark.integration

T = TypeVar("T")


@pytest.fixture
def user() -> str:
    """The server is shared by all tests: each has users of its own."""
    return f"latest-{uuid.uuid4()}"


def run(redis_url: str, body: Callable[[LatestStore, Redis], Awaitable[T]], ttl_s: int = latest.TTL_S) -> T:
    async def session() -> T:
        async with Redis.from_url(redis_url) as redis:
            return await body(LatestStore(redis, ttl_s), redis)

    return asyncio.run(session())


def videos(user: str, watermark_ms: int, generated_ms: int, value: bytes | None = None) -> Record:
    text = value or f"{watermark_ms}:{generated_ms}".encode()
    return ("videos", user, text, watermark_ms, generated_ms, "m1")


def test_a_list_is_stored_with_what_tells_its_age(redis_url: str, user: str) -> None:
    async def body(store: LatestStore, redis: Redis) -> None:
        assert await store.read("videos", user) is None
        assert await store.write([videos(user, 1_700_000_000_123, 1_700_000_000_456, b'{"\xc3\xa9":1}')]) == 0
        assert await store.read("videos", user) == b'{"\xc3\xa9":1}'
        assert await store.read("comments", user) is None
        assert await redis.hgetall(f"lsvcr:videos:{user}") == {
            b"value": b'{"\xc3\xa9":1}',
            b"watermark": b"1700000000123",
            b"generated_ms": b"1700000000456",
            b"model_version": b"m1",
        }
        assert 0 < await redis.ttl(list_key("videos", user)) <= 90

    run(redis_url, body, ttl_s=90)


@pytest.mark.parametrize("order", permutations([(9, 500), (10, 100), (10, 200), (11, 50)]))
def test_the_newest_list_stays_whatever_the_order(
    redis_url: str, user: str, order: tuple[tuple[int, int], ...]
) -> None:
    async def body(store: LatestStore, _: Redis) -> None:
        refused, best = 0, (-1, -1)
        for age in order:
            refused += await store.write([videos(user, *age)])
            best = max(best, age)
            assert await store.read("videos", user) == b"%d:%d" % best
        newer = sum(age == max(order[: at + 1]) for at, age in enumerate(order))
        assert refused == len(order) - newer

    run(redis_url, body)


def test_times_compare_as_numbers_to_the_millisecond(redis_url: str, user: str) -> None:
    async def body(store: LatestStore, _: Redis) -> None:
        assert await store.write([videos(user, 999, 1)]) == 0
        assert await store.write([videos(user, 1000, 1)]) == 0  # less than 999 as a string
        end_of_time = 253_402_300_799_999
        assert await store.write([videos(user, end_of_time, 1)]) == 0
        assert await store.write([videos(user, end_of_time - 1, 1)]) == 1
        assert await store.read("videos", user) == b"%d:1" % end_of_time

    run(redis_url, body)


def test_the_same_list_again_is_no_refusal(redis_url: str, user: str) -> None:
    async def body(store: LatestStore, _: Redis) -> None:
        assert [await store.write([videos(user, 5, 6)]) for _ in range(3)] == [0, 0, 0]

    run(redis_url, body)


def test_many_lists_and_users_in_one_write(redis_url: str, user: str) -> None:
    """More than a chunk, and a user more than once: the last chunk's positions are there as well."""

    async def body(store: LatestStore, _: Redis) -> None:
        count = 2 * latest.CHUNK + 7
        records = [videos(f"{user}-{number % 100}", number, 0) for number in range(count)]
        Random(1).shuffle(records)
        newest = {number % 100: number for number in range(count)}
        await store.write(records, {(user, 0): 77, (user, 1): 88})
        for number, age in newest.items():
            assert await store.read("videos", f"{user}-{number}") == b"%d:0" % age
        assert await store.positions([(user, 0), (user, 2), (user, 1)]) == [77, None, 88]

    run(redis_url, body)


def test_positions_only_advance_unless_they_are_reset(redis_url: str, user: str) -> None:
    async def body(store: LatestStore, redis: Redis) -> None:
        place = (user, 3)
        for offset, stored in ((9, 9), (10, 10), (2, 10), (10, 10), (2**52, 2**52), (11, 2**52)):
            assert await store.write([], {place: offset}) == 0
            assert await store.positions([place]) == [stored]
        await store.reset_position(*place, 4)
        assert await redis.get(position_key(*place)) == b"4"
        await store.write([], {place: 5})
        assert await store.positions([place]) == [5]
        assert await redis.ttl(position_key(*place)) == -1

    run(redis_url, body)


def test_nothing_to_write_is_nothing_done(redis_url: str) -> None:
    async def body(store: LatestStore, _: Redis) -> None:
        assert await store.write([]) == 0
        assert await store.positions([]) == []

    run(redis_url, body)


def test_a_server_that_forgot_the_script_gets_it_again(redis_url: str, user: str) -> None:
    async def body(store: LatestStore, redis: Redis) -> None:
        await redis.script_flush()
        assert await store.write([videos(user, 1, 1)], {(user, 0): 3}) == 0
        await redis.script_flush()
        assert await store.write([videos(user, 0, 1)], {(user, 0): 4}) == 1
        assert await store.read("videos", user) == b"1:1"
        assert await store.positions([(user, 0)]) == [4]

    run(redis_url, body)


def test_writers_at_the_same_time_leave_the_newest(redis_url: str, user: str) -> None:
    async def body(store: LatestStore, _: Redis) -> None:
        async def write(seed: int) -> None:
            for age in Random(seed).sample(range(40), 40):
                await store.write([videos(user, age, 0)])

        await asyncio.gather(*(write(seed) for seed in range(4)))
        assert await store.read("videos", user) == b"39:0"

    run(redis_url, body)


def test_an_unreachable_server_raises() -> None:
    with pytest.raises(RedisConnectionError):
        run("redis://localhost:1", lambda store, _: store.write([videos("u", 1, 1)]))


def test_a_list_must_live_for_a_while() -> None:
    with pytest.raises(ValueError, match="at least 1 second"):
        LatestStore(Redis(), ttl_s=0)
