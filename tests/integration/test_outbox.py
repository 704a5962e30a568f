"""The worker's producer on a real broker: all that it is given is confirmed, in order and once."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic
from support.topic_reader import read_topic

from infra.local.stack import LocalStack
from streams import outbox as outbox_module
from streams.outbox import BATCH_BYTES, MAX_MESSAGE_BYTES, Delivery, DeliveryError, Message, Outbox
from streams.topics import partition_of

pytestmark = pytest.mark.integration

TOPICS, PARTITIONS = ("outbox-a", "outbox-b"), 5
Body = Callable[[Outbox, list[Delivery]], Awaitable[None]]


def create(bootstrap: str, *topics: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS) for topic in topics]).values():
        made.result(30)


def delete(bootstrap: str, *topics: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for gone in admin.delete_topics(list(topics)).values():
        gone.result(30)


@pytest.fixture
def topics(kafka: str) -> Any:
    """Two topics of its own on the shared broker."""
    create(kafka, *TOPICS)
    yield TOPICS
    delete(kafka, *TOPICS)


def run(bootstrap: str, body: Body, **options: Any) -> list[Delivery]:
    """Run `body(outbox, settled)`; what was settled, in that order."""
    settled: list[Delivery] = []

    async def main() -> None:
        outbox = Outbox(bootstrap, settled.append, **options)
        outbox.start()
        try:
            await body(outbox, settled)
        finally:
            await outbox.close()

    asyncio.run(main())
    return settled


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def groups(count: int, seed: int) -> list[list[Message]]:
    """Groups of records with numbers, of random sizes, to random places."""
    draw, made, number = random.Random(seed), [], 0
    for _ in range(count):
        group = []
        for _ in range(draw.randint(1, 6)):
            topic, partition = draw.choice(TOPICS), draw.randrange(PARTITIONS)
            headers = [("n", b"%d" % number)] if draw.random() < 0.5 else None
            value = None if draw.random() < 0.1 else draw.randbytes(draw.randint(0, 4000))
            group.append(Message(topic, partition, b"%d" % number, value, headers))
            number += 1
        made.append(group)
    return made


def check(bootstrap: str, sent: list[list[Message]], settled: list[Delivery]) -> None:
    """Every group settled once without an error; each partition holds its records, as they were sent and once."""
    assert sorted(d.context for d in settled) == list(range(len(sent)))
    assert all(d.error is None and d.remaining == 0 for d in settled)
    wanted: dict[tuple[str, int | None], list[Message]] = defaultdict(list)
    for message in (message for group in sent for message in group):
        wanted[message.topic, message.partition].append(message)
    found: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for topic in TOPICS:
        for record in read_topic(bootstrap, topic):
            found[topic, record.partition()].append(record)
    offset_of = {}
    assert found.keys() == wanted.keys()
    for place, records in found.items():
        assert [(r.key(), r.value(), r.headers()) for r in records] == [
            (m.key, m.value, m.headers) for m in wanted[place]
        ]
        offset_of |= {record.key(): record.offset() for record in records}
    for delivery in settled:
        highest: dict[tuple[str, int | None], int] = {}
        for topic, partition, key, *_ in sent[delivery.context]:
            highest[topic, partition] = offset_of[key]
        assert delivery.offsets == highest


@pytest.mark.parametrize("compression", ["snappy", "lz4", "zstd", "gzip", "none"])
def test_each_partition_gets_its_records_once_in_order(
    kafka: str, topics: Any, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, told = groups(300, seed=1), []

    def producer(**options: Any) -> AIOKafkaProducer:
        told.append(options)
        return AIOKafkaProducer(**options)

    monkeypatch.setattr(outbox_module, "AIOKafkaProducer", producer)

    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        for number, group in enumerate(sent):
            outbox.send(group, number)
            if number % 7 == 0:
                await asyncio.sleep(0.002)
        await until(lambda: len(settled) == len(sent))

    check(kafka, sent, run(kafka, body, compression=compression))
    assert told[-1]["compression_type"] == (None if compression == "none" else compression)
    assert told[-1]["enable_idempotence"]


def test_more_than_fits_into_a_request_goes_in_several(kafka: str, topics: Any) -> None:
    """All at once, before the producer is connected, and no record compresses."""
    draw = random.Random(2)
    size = BATCH_BYTES // 3
    sent = [[Message(TOPICS[0], n % 2, b"%d" % n, draw.randbytes(size), None)] for n in range(40)]

    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        for number, group in enumerate(sent):
            outbox.send(group, number)
        await until(lambda: len(settled) == len(sent))

    check(kafka, sent, run(kafka, body))


def test_closing_waits_for_what_is_under_way(kafka: str, topics: Any) -> None:
    sent = groups(50, seed=3)

    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        for number, group in enumerate(sent):
            outbox.send(group, number)

    check(kafka, sent, run(kafka, body))


def test_without_a_partition_the_key_decides_as_for_every_client(kafka: str, topics: Any) -> None:
    keys = [b"u%d" % n for n in range(200)]

    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        outbox.send([Message(TOPICS[0], None, key, b"") for key in keys], 0)
        outbox.send([Message(TOPICS[1], None, None, b"%d" % n) for n in range(200)], 1)
        await until(lambda: len(settled) == 2)

    assert [d.error for d in run(kafka, body)] == [None, None]
    assert {r.key(): r.partition() for r in read_topic(kafka, TOPICS[0])} == {
        k: partition_of(k, PARTITIONS) for k in keys
    }
    assert {r.partition() for r in read_topic(kafka, TOPICS[1])} == set(range(PARTITIONS))


def test_what_the_broker_refuses_is_told_and_holds_nothing_up(kafka: str, topics: Any) -> None:
    """Brokers take batches of 1 MB; this one is larger, and does not compress."""

    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        outbox.send([Message(TOPICS[0], 0, b"k", b"before")], "before")
        outbox.send(
            [Message(TOPICS[0], 1, b"k", random.randbytes(2 * BATCH_BYTES)), Message(TOPICS[0], 2, b"k", b"")], "big"
        )
        outbox.send([Message(TOPICS[0], 3, b"k", b"after")], "after")
        await until(lambda: len(settled) == 3)
        with pytest.raises(DeliveryError, match="16,777,217 bytes"):
            outbox.send(
                [Message(TOPICS[0], 0, b"k", b"no"), Message(TOPICS[0], 0, b"k", bytes(MAX_MESSAGE_BYTES + 1))], ""
            )

    errors = {d.context: d.error for d in run(kafka, body)}
    assert errors.pop("big").startswith("MessageSizeTooLargeError")  # type: ignore[union-attr]
    assert errors == {"before": None, "after": None}
    assert sorted(r.value() for r in read_topic(kafka, TOPICS[0])) == [b"", b"after", b"before"]


def test_a_topic_that_is_missing_is_waited_for(kafka: str) -> None:
    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        outbox.send([Message("outbox-later", 0, b"k", b"v")], 0)
        await asyncio.sleep(1)
        assert not settled
        await asyncio.to_thread(create, kafka, "outbox-later")
        await until(lambda: len(settled) == 1)

    try:
        assert [d.error for d in run(kafka, body)] == [None]
    finally:
        delete(kafka, "outbox-later")


def test_what_was_not_sent_can_be_dropped() -> None:
    async def main() -> None:
        settled: list[Delivery] = []
        outbox = Outbox("127.0.0.1:1", settled.append)
        dropped = outbox.send([Message("t", 0, b"k", b"v"), Message("t", None, b"k", b"v")], None)
        outbox.purge()
        assert settled == [dropped]
        assert (dropped.error, dropped.remaining) == ("purged", 0)
        await outbox.close()

    asyncio.run(main())


def test_a_broker_that_dies_twice_gets_everything_once_and_closing_does_not_wait_for_it(own_stack: LocalStack) -> None:
    bootstrap = own_stack.status().bootstrap_servers
    create(bootstrap, *TOPICS)
    sent = groups(900, seed=4)

    async def body(outbox: Outbox, settled: list[Delivery]) -> None:
        for number, group in enumerate(sent):
            outbox.send(group, number)
            if number in (300, 600):
                await until(lambda: len(settled) > 10)
                await asyncio.to_thread(own_stack.kill_kafka)
            if number in (400, 700):
                before = len(settled)
                await asyncio.sleep(1)
                assert len(settled) == before < number
                await asyncio.to_thread(own_stack.start_kafka)
            await asyncio.sleep(0.001)
        await until(lambda: len(settled) == len(sent), 120)
        await asyncio.to_thread(own_stack.kill_kafka)
        outbox.send([Message(TOPICS[0], 0, b"lost", b"")], None)
        async with asyncio.timeout(8):
            await outbox.close(timeout_s=1)
        left = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - {asyncio.current_task()}}  # type: ignore[union-attr]
        assert left <= {"MessageAccumulator.close"}  # waits for the lost record; nobody is left who would send it
        await asyncio.to_thread(own_stack.start_kafka)

    check(bootstrap, sent, run(bootstrap, body))
