"""Reads whole Kafka topics and what a log should have led to, for comparing after the fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streams import events, history, state_record
from streams.history import HistoryConfig, UserState
from streams.topics import EVENT_TOPICS, STATE_CHANGELOG
from streams.whole_topic import first_and_end


def read_topic(bootstrap: str, topic: str, start: Mapping[tuple[str, int], int] | None = None) -> Iterator[Any]:
    """Every record of a topic up to its end at the time of the call, per partition in offset order.

    `start`: the first offset to read, per (topic, partition); None: all that is there.
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False, "log_level": 2}
    )
    try:
        places = [TopicPartition(topic, p) for p in consumer.list_topics(topic, 10).topics[topic].partitions]
        left = {}
        for place in places:
            low, high = first_and_end(consumer, topic, place.partition)
            if high > max(low, 0 if start is None else start.get((topic, place.partition), 0)):
                left[place.partition] = high
        first = {p: OFFSET_BEGINNING if start is None else start.get((topic, p), OFFSET_BEGINNING) for p in left}
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in first.items()])
        while left:
            for record in consumer.consume(5000, 1.0):
                assert record.error() is None, record.error()
                yield record
            for place in consumer.position([TopicPartition(topic, p) for p in left]):
                if place.offset >= left[place.partition]:
                    del left[place.partition]
    finally:
        consumer.close()


def latest(bootstrap: str, topic: str) -> dict[str, bytes]:
    """The last value per key; fails if one key stands on two partitions."""
    values: dict[str, bytes] = {}
    homes: dict[str, int] = {}
    for record in read_topic(bootstrap, topic):
        key = record.key().decode()
        assert homes.setdefault(key, record.partition()) == record.partition(), f"{key} is on two partitions of {topic}"
        values[key] = record.value()
    return values


def changelog_states(bootstrap: str) -> dict[str, UserState]:
    """Every user's state, from the changelog."""
    return {user: state_record.decode(value) for user, value in latest(bootstrap, STATE_CHANGELOG).items()}


def changelog_tail(bootstrap: str, start: Mapping[tuple[str, int], int]) -> dict[str, UserState]:
    """The newest state of every user who has one behind `start`."""
    tail = read_topic(bootstrap, STATE_CHANGELOG, start)
    return {record.key().decode(): state_record.decode(record.value()) for record in tail}


def read_log(folder: Path) -> dict[str, list[events.Record]]:
    """A converted log's events by topic, in file order."""
    return {
        topic: [
            events.decode_value(topic, line, now_ms=2**52)
            for line in (folder / f"{topic}.jsonl").read_bytes().splitlines()
        ]
        for topic in EVENT_TOPICS
    }


def fold(log: Iterable[Any], config: HistoryConfig) -> dict[str, UserState]:
    """Every user's state by folding events in time order, without the origin of the newest event."""
    states: dict[str, UserState] = {}
    for event in sorted(log, key=lambda e: (e.ts_ms, history.event_digest(e.event_id))):
        states[event.user_id] = history.apply(states.get(event.user_id, history.EMPTY), event, config)
    return {user: without_origin(state) for user, state in states.items()}


def without_origin(state: UserState) -> UserState:
    """The state without partition and offset of its newest event, which depend on how it was published."""
    newest = state.newest
    if newest is None:
        return state
    import msgspec

    return msgspec.structs.replace(state, newest=msgspec.structs.replace(newest, partition=-1, offset=-1))
