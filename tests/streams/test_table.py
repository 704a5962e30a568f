"""The state table's store: what the changelog brings is what is read, and the offset says how far it came."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import ConsumerRecord
from faust.types import TP

from streams.intake import BatchTransport
from streams.table import ROCKSDB_OPTIONS, UserStateTable

CHANGELOG = "app-state-changelog"


class NoEvents:
    """As much of a slice handler as nothing needs."""

    topics = ()


def record(offset: int, key: bytes, value: bytes | None) -> ConsumerRecord:
    return ConsumerRecord(CHANGELOG, 1, offset, 0, 0, key, value, None, len(key), len(value or b""), ())


@pytest.fixture(params=["rocksdb://?driver=rocksdict", "memory://"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> UserStateTable:
    app = faust.App("app", broker="kafka://none", store=request.param, datadir=str(tmp_path), web_enabled=False)
    app._create_directories()
    options = dict(ROCKSDB_OPTIONS) if request.param.startswith("rocks") else None
    made = UserStateTable(
        app, name="state", key_type=bytes, value_type=bytes, partitions=2, options=options, beacon=app.tables.beacon
    )
    app.tables.add(made)
    return made


def test_the_last_record_of_a_key_is_what_is_read(table: UserStateTable) -> None:
    table.restore(1, [record(0, b"u1", b"a"), record(1, b"u2", b"b"), record(2, b"u1", b"c")])
    assert (table.read(1, b"u1"), table.read(1, b"u2")) == (b"c", b"b")
    table.restore(1, [record(3, b"u2", b"d")])
    assert sorted(table.users(1)) == [(b"u1", b"c"), (b"u2", b"d")]


def test_a_record_without_a_value_removes_its_key_within_and_across_slices(table: UserStateTable) -> None:
    table.restore(1, [record(0, b"u1", b"a"), record(1, b"u1", None), record(2, b"u2", b"b")])
    assert table.read(1, b"u1") is None
    table.restore(1, [record(3, b"u2", None), record(4, b"nobody", None)])
    assert list(table.users(1)) == []


def test_what_was_restored_is_of_its_partition_only(table: UserStateTable) -> None:
    table.restore(1, [record(0, b"u1", b"a")])
    assert list(table.users(0)) == []


def test_the_persisted_offset_is_that_of_the_last_record(table: UserStateTable) -> None:
    place = TP(table.changelog_topic_name, 1)
    assert table.persisted_offset(place) is None
    table.restore(1, [record(40, b"u1", b"a"), record(43, b"u2", None)])
    # In memory nothing persists: a restart reads the changelog from its beginning.
    assert table.persisted_offset(place) == (43 if "rocksdb" in str(table.data.url) else None)


def test_faust_does_not_put_an_older_state_over_a_restored_one(table: UserStateTable) -> None:
    older = [record(0, b"u1", b"a")]
    table.restore(1, older)
    table.restore(1, [record(1, b"u1", b"b")])
    table.apply_changelog_batch(older)  # Faust comes to a slice's last record when others have followed it
    assert table.read(1, b"u1") == b"b"


def test_a_fetch_from_before_the_seek_does_not_bring_an_older_state_back(table: UserStateTable) -> None:
    async def come() -> list[int]:
        app = table.app
        app.transport = BatchTransport(NoEvents(), app.conf.broker_consumer, app)
        consumer = app.consumer
        forwarded = []

        async def forward(message: Any) -> None:
            forwarded.append(message.offset)

        consumer.callback = forward
        consumer.resume_flow()
        place, generation = TP(table.changelog_topic_name, 1), app.consumer_generation_id
        await consumer._restore(table, place, [record(7, b"u1", b"new")], generation)
        app.tables.recovery.active_tps.add(place)
        app.tables.recovery.active_offsets[place] = 7  # what Faust makes of the record, later and elsewhere
        await consumer._restore(table, place, [record(0, b"u1", b"old"), record(3, b"u2", b"old")], generation)
        await consumer._restore(table, place, [record(7, b"u1", b"again"), record(8, b"u2", b"new")], generation)
        return forwarded

    assert asyncio.run(come()) == [7, 8]
    assert sorted(table.users(1)) == [(b"u1", b"new"), (b"u2", b"new")]


def test_what_was_not_flushed_is_read_but_not_stored(table: UserStateTable) -> None:
    place = TP(table.changelog_topic_name, 1)
    table.restore(1, [record(0, b"u1", b"a"), record(1, b"u2", b"a")])
    table.write(1, [(b"u1", b"b")])
    table.confirm(1, 2)
    assert (table.read(1, b"u1"), table.read(1, b"u2")) == (b"b", b"a")
    if "rocksdb" not in str(table.app.conf.store):
        return
    assert table.persisted_offset(place) == 1  # the offset never says more than what is stored
    table.flush()
    assert table.persisted_offset(place) == 2
    table.write(1, [(b"u1", b"c")])
    table.confirm(1, 5)
    table.forget_unwritten()  # as when the partition is another's: what that one writes must stay
    table.restore(1, [record(4, b"u1", b"theirs")])
    table.flush()
    assert table.read(1, b"u1") == b"theirs"
    assert table.persisted_offset(place) == 4
    table.write(1, [(b"u2", b"d")])
    assert sorted(table.users(1)) == [(b"u1", b"theirs"), (b"u2", b"d")]
