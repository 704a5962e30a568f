"""The reader of event partitions against a real broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams import fetcher
from streams.fetcher import Fetcher, Record

pytestmark = pytest.mark.integration


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"read-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, 2)])[name].result()
    return name


def fill(bootstrap: str, topic: str, partition: int, values: range, **more: object) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in values:
        producer.produce(topic, b"%d" % value, b"k%d" % value, partition=partition, timestamp=1000 + value, **more)
    assert producer.flush(20) == 0


@asynccontextmanager
async def reading(bootstrap: str) -> AsyncIterator[Fetcher]:
    reader = Fetcher(bootstrap, "readers")
    try:
        yield reader
    finally:
        await reader.close()


async def read(reader: Fetcher, count: int) -> dict[int, list[Record]]:
    """So many records of the present assignment, by partition."""
    got: dict[int, list[Record]] = {}
    async with asyncio.timeout(20):
        while sum(map(len, got.values())) < count:
            await reader.arrived.wait()
            assert reader.failure is None
            if (round_ := reader.take()) is not None and round_.epoch == reader.epoch:
                for (_, partition), records in round_.read.items():
                    got.setdefault(partition, []).extend(records)
    return got


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_each_partition_comes_in_order_from_its_offset_on(kafka: str, topic: str) -> None:
    fill(kafka, topic, 0, range(3000))
    fill(kafka, topic, 1, range(50), headers=[("why", b"so")])

    async def test() -> None:
        async with reading(kafka) as reader:
            reader.assign({(topic, 0): 100, (topic, 1): OFFSET_BEGINNING})
            got = await read(reader, 2950)
            assert [record.offset for record in got[0]] == list(range(100, 3000))
            assert [record.value for record in got[1]] == [b"%d" % value for value in range(50)]
            one = got[1][7]
            assert one[:6] == (topic, 1, 7, 1007, b"k7", b"7")
            assert one.headers == [("why", b"so")]
            assert got[0][0].headers == []
            async with asyncio.timeout(5):
                # the thread looks, and tells nobody
                while reader.end((topic, 0)) != 3000 or reader.end((topic, 1)) != 50:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            fill(kafka, topic, 1, range(50, 60))
            assert [record.offset for record in (await read(reader, 10))[1]] == list(range(50, 60))

    run(test)


def test_a_new_assignment_ends_the_old_one(kafka: str, topic: str) -> None:
    fill(kafka, topic, 0, range(5000))
    fill(kafka, topic, 1, range(10))

    async def test() -> None:
        async with reading(kafka) as reader:
            reader.assign({(topic, 0): 0})
            await reader.arrived.wait()
            kept = reader.take()
            assert kept is not None
            reader.assign({(topic, 1): 4})
            assert kept.epoch != reader.epoch  # whoever still holds it knows that it is over
            assert {p: [r.offset for r in records] for p, records in (await read(reader, 6)).items()} == {
                1: [4, 5, 6, 7, 8, 9]
            }
            assert reader.end((topic, 0)) is None

            reader.assign({})
            fill(kafka, topic, 1, range(10, 20))
            await asyncio.sleep(0.5)
            assert reader.take() is None

            reader.assign({(topic, 1): 9})
            assert [r.offset for r in (await read(reader, 11))[1]] == list(range(9, 20))

    run(test)


def test_who_takes_nothing_stops_the_reading(kafka: str, topic: str) -> None:
    fill(kafka, topic, 0, range(3 * fetcher.ROUND_RECORDS))

    async def test() -> None:
        async with reading(kafka) as reader:
            reader.assign({(topic, 0): 0})
            await reader.arrived.wait()
            await asyncio.sleep(0.5)
            first = reader.take()
            assert first is not None
            assert len(first.read[topic, 0]) <= fetcher.ROUND_RECORDS
            # nothing was read ahead into Python, and nothing is left out
            rest = await read(reader, 3 * fetcher.ROUND_RECORDS - len(first.read[topic, 0]))
            assert [r.offset for r in first.read[topic, 0] + rest[0]] == list(range(3 * fetcher.ROUND_RECORDS))

    run(test)


def test_what_ends_the_thread_is_told(kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(message: object) -> Record:
        raise RuntimeError("no record like that")

    monkeypatch.setattr(fetcher, "_record", fail)
    fill(kafka, topic, 0, range(1))

    async def test() -> None:
        async with reading(kafka) as reader:
            reader.assign({(topic, 0): 0})
            async with asyncio.timeout(20):
                await reader.arrived.wait()
            assert isinstance(reader.failure, RuntimeError)
        assert not any(thread.name == "fetcher" for thread in threading.enumerate())

    run(test)


def test_events_are_read_whatever_codec_their_producer_chose(kafka: str, topic: str) -> None:
    codecs = ("gzip", "snappy", "lz4", "zstd")
    for number, codec in enumerate(codecs):
        producer = Producer({"bootstrap.servers": kafka, "compression.type": codec})
        for value in range(100):
            producer.produce(topic, b"same" * 50, b"%d" % (100 * number + value), partition=0)
        assert producer.flush(20) == 0

    async def test() -> None:
        async with reading(kafka) as reader:
            reader.assign({(topic, 0): 0})
            got = (await read(reader, 400))[0]
            assert [int(record.key or b"") for record in got] == list(range(400))
            assert {record.value for record in got} == {b"same" * 50}

    run(test)
