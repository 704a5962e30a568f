"""The state table: Faust's table, with reads and writes by partition and in batches.

Faust finds a record's partition through the event being processed; batch intake has none, but knows the partition. So
this subclass reads and writes the partition's store directly. The changelog is written by `streams.rescoring`, which
waits for the broker's confirmation; `confirm` then remembers the offset, so that a restart reads only what is newer.

Like `intake.py`, it touches Faust's inner parts and is pinned by `tests/streams/test_faust_pins.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import faust
import rocksdict
from faust.stores.memory import Store as MemoryStore
from faust.stores.rocksdb import Store as RocksStore

#: Faust's defaults (2 GiB block cache for each partition) are made for one big table on one big machine.
ROCKSDB_OPTIONS: dict[str, Any] = {
    "driver": "rocksdict",
    "block_cache_size": 64 * 1024**2,
    "write_buffer_size": 16 * 1024**2,
    "max_open_files": 256,
}


class UserStateTable(faust.Table):
    """Key: user id in UTF-8. Value: `streams.state_record.encode`. Raw bytes both."""

    logger = logging.getLogger("faust.worker")  # what Faust says is shown from WARNING on

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What RocksDB is told by the next `flush`: many small writes, each to its log at once, cost more than the rest
        # of a small batch. Nothing is lost with it: the changelog has it, or events after the watermark make it again.
        self._unwritten: dict[int, dict[bytes, bytes]] = {}
        self._confirmed: dict[int, int] = {}

    def read(self, partition: int, key: bytes) -> bytes | None:
        """The stored state of a user on one of our partitions, or None."""
        store = self.data
        if isinstance(store, RocksStore):
            if (unwritten := self._unwritten.get(partition, {}).get(key)) is not None:
                return unwritten
            value: bytes | None = store._db_for_partition(partition).get(key)
            return value
        assert isinstance(store, MemoryStore)
        return store.data.get(key)

    def write(self, partition: int, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep many users' states of one partition. In RocksDB they are after the next `flush`, for `read` at once."""
        store = self.data
        if isinstance(store, RocksStore):
            self._unwritten.setdefault(partition, {}).update(items)
            return
        assert isinstance(store, MemoryStore)
        for key, value in items:
            store.data[key] = value
            store._key_partition[key] = partition

    def restore(self, partition: int, records: Sequence[Any]) -> None:
        """Take in changelog records (aiokafka's, of one partition in offset order): ours from before, or another's."""
        store = self.data
        if isinstance(store, RocksStore):
            batch = rocksdict.WriteBatch(raw_mode=True)
            for record in records:
                if record.value is None:
                    batch.delete(record.key)
                else:
                    batch.put(record.key, record.value)
            # In one batch with the states: the offset never says more, or less, than what is there.
            batch.put(store.offset_key, b"%d" % records[-1].offset)
            store._db_for_partition(partition).write(batch)
            return
        assert isinstance(store, MemoryStore)
        for record in records:
            if record.value is None:
                store.data.pop(record.key, None)
                store._key_partition.pop(record.key, None)
            else:
                store.data[record.key] = record.value
                store._key_partition[record.key] = partition

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Nothing: `restore` had these records, and what came after them, before Faust did."""

    def confirm(self, partition: int, offset: int) -> None:
        """The changelog of a partition is confirmed up to `offset`, and at least that was given to `write`."""
        if isinstance(self.data, RocksStore):
            self._confirmed[partition] = offset

    def flush(self) -> None:
        """Write to RocksDB what was kept since the last time, and how far the changelog is confirmed."""
        store = self.data
        if not isinstance(store, RocksStore):
            return
        unwritten, self._unwritten = self._unwritten, {}
        confirmed, self._confirmed = self._confirmed, {}
        for partition in unwritten.keys() | confirmed.keys():
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key, value in unwritten.get(partition, {}).items():
                batch.put(key, value)
            # In one batch with the states, as in `restore`.
            if (offset := confirmed.get(partition)) is not None:
                batch.put(store.offset_key, b"%d" % offset)
            store._db_for_partition(partition).write(batch)

    def forget_unwritten(self) -> None:
        """The partitions are no longer ours: what was not flushed must not come after what others write."""
        self._unwritten.clear()
        self._confirmed.clear()

    def users(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All (user id, state) of one of our partitions."""
        self.flush()
        store = self.data
        if isinstance(store, RocksStore):
            yield from store._visible_items(store._db_for_partition(partition))
            return
        assert isinstance(store, MemoryStore)
        for key, value in store.data.items():
            if store._key_partition.get(key) == partition:
                yield key, value
