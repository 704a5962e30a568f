"""Reading a topic from its beginning to where it ends now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from streams import state_record
from streams.history import UserState
from streams.topics import STATE_CHANGELOG

_TIMEOUT_S = 15.0
#: what a broker answers about a partition whose leader is being chosen: a topic that was just made, a broker that left
_NO_LEADER_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._UNKNOWN_PARTITION,  # what the broker has told the client so far does not name it
}


class TopicReadError(RuntimeError):
    """The topic can't be read; the message says what to do."""


def read_whole(bootstrap_servers: str, topic: str) -> Iterator[Any]:
    """Every record (confluent_kafka's) of a topic up to its end at the time of the call, each partition in order.

    Raises:
        TopicReadError: the broker is away, or the topic is missing.
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "none", "enable.auto.commit": False, "log_level": 2}
    )
    try:
        found = consumer.list_topics(topic, _TIMEOUT_S).topics[topic]
        if found.error is not None:
            raise TopicReadError(f"no topic {topic} on {bootstrap_servers}; run `lsvcr topics create`")
        left: dict[int, int] = {}
        for partition in found.partitions:
            low, high = first_and_end(consumer, topic, partition)
            if high > low:
                left[partition] = high
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        while left:
            for record in consumer.consume(5000, 1.0):
                if record.error() is not None:
                    raise KafkaException(record.error())
                yield record
            # The position also moves past what compaction removed.
            for place in consumer.position([TopicPartition(topic, partition) for partition in left]):
                if place.offset >= left[place.partition]:
                    del left[place.partition]
    except KafkaException as error:
        why = f"no Kafka at {bootstrap_servers} ({error}); is it up? `lsvcr stack up` starts one"
        raise TopicReadError(why) from None
    finally:
        consumer.close()


def first_and_end(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """A partition's first offset and the one after its last. Where it has no leader yet, that is waited for.

    Raises:
        KafkaException: the broker is away, or there is no such partition, or no leader within 15 s.
    """
    until = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), _TIMEOUT_S)
            return first, end
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER_YET or time.monotonic() > until:
                raise
        time.sleep(0.1)


def read_states(bootstrap_servers: str) -> dict[str, UserState]:
    """Every user's state, from the table's changelog. Raises TopicReadError."""
    newest: dict[bytes, bytes] = {}
    for record in read_whole(bootstrap_servers, STATE_CHANGELOG):
        if record.value() is None:
            newest.pop(record.key(), None)
        else:
            newest[record.key()] = record.value()
    return {user.decode(): state_record.decode(value) for user, value in newest.items()}
