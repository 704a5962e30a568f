"""Reads the event partitions: a librdkafka consumer in a thread of its own.

aiokafka, which Faust reads with, spends more of the interpreter's time on a fetch than all the rest of the worker on
the event or two that it brings; librdkafka fetches and parses outside of the interpreter. Which partitions are ours and
from which offset on is told by Faust's group (`streams.intake`): this consumer joins none, and commits nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, TopicPartition

log = logging.getLogger(__name__)

Place = tuple[str, int]

#: Records of one round at most.
ROUND_RECORDS = 1000
#: How long a round waits for its first record: an assignment that changes meanwhile waits for the end of that.
POLL_S = 0.05
#: How often the end offsets are looked at.
ENDS_S = 0.5


class Record(NamedTuple):
    """One event as it was read, with the names that aiokafka's records have."""

    topic: str
    partition: int
    offset: int
    timestamp: int  #: milliseconds; -1 if there is none
    key: bytes | None
    value: bytes | None
    message: Any  #: confluent_kafka's

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Made when asked for: hardly any record is."""
        try:
            return self.message.headers() or []
        except UnicodeDecodeError:  # a name that is no text; the event may be a good one all the same
            return []


class Round(NamedTuple):
    """What one look into librdkafka's queues brought: per partition in offset order."""

    epoch: int
    read: dict[Place, list[Record]]


class Fetcher:
    """`assign` says what to read. What was read comes round by round: `take` gives the next one when `arrived` is set.

    One round waits at most; while it does, librdkafka's queues fill up, and what is in them is the next one. So rounds
    grow with the load, and a reader that does not keep up stops the reading.

    All methods are for the event loop on which it was made.
    """

    def __init__(self, bootstrap_servers: str, group: str) -> None:
        self.arrived = asyncio.Event()
        self.epoch = 0  #: counts assignments: a round of another one is to be thrown away
        self.failure: BaseException | None = None  #: what ended the thread; `arrived` is set then
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()  # guards what follows
        self._wanted: dict[Place, int] = {}
        self._round: Round | None = None
        self._stopped = False
        self._ends: dict[Place, int] = {}
        self._looked = 0.0
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": "lsvcr-worker",
                "group.id": group,  # librdkafka demands one; it is not joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",  # of a partition whose first events are gone
                "isolation.level": "read_uncommitted",  # as Faust reads
                # A partition assigned while a fetch waits for records is part of the next fetch only.
                "fetch.wait.max.ms": 100,
                # After full queues, look again at once and not in a second.
                "fetch.queue.backoff.ms": 10,
                # What a worker holds unread: so many records of a partition, so many bytes of all.
                "queued.min.messages": 10_000,
                "queued.max.messages.kbytes": 64 * 1024,
                "socket.nagle.disable": True,
                "log_level": 4,
            }
        )
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)
        self._thread.start()

    def assign(self, offsets: Mapping[Place, int]) -> None:
        """Read these partitions from these offsets on (or `confluent_kafka.OFFSET_BEGINNING`), and no others."""
        with self._changed:
            self.epoch += 1
            self._wanted = dict(offsets)
            self._round = None
            self._changed.notify()

    def take(self) -> Round | None:
        """The round that waits; None if none does."""
        with self._changed:
            taken, self._round = self._round, None
            if taken is None:
                self.arrived.clear()
            self._changed.notify()
            return taken

    def end(self, place: Place) -> int | None:
        """The end offset of a partition that is read, half a second old at most; None until a fetch told of it."""
        return self._ends.get(place)

    async def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    # --- the thread ---------------------------------------------------------------------------------------------------
    # All calls of the consumer are made here: they wait for each other, and the loop would wait for a poll.

    def _run(self) -> None:
        epoch = 0
        try:
            while True:
                with self._changed:
                    while not self._stopped and epoch == self.epoch and (not self._wanted or self._round is not None):
                        self._changed.wait()
                    if self._stopped:
                        return
                    wanted, news = self._wanted, epoch != self.epoch
                    epoch = self.epoch
                if news:
                    self._ends, self._looked = {}, 0.0
                    self._consumer.assign([TopicPartition(*place, offset) for place, offset in wanted.items()])
                if wanted:
                    self._read(epoch)
                    self._look_at_ends(wanted)
        except Exception as error:
            self.failure = error
            self._tell()
        finally:
            self._consumer.close()

    def _read(self, epoch: int) -> None:
        first = self._consumer.poll(POLL_S)
        if first is None:
            return
        read: dict[Place, list[Record]] = {}
        for message in (first, *self._consumer.consume(ROUND_RECORDS - 1, 0)):
            if (error := message.error()) is not None:
                _look_at(error)
                continue
            record = _record(message)
            read.setdefault((record.topic, record.partition), []).append(record)
        with self._changed:
            if not read or epoch != self.epoch:
                return
            self._round = Round(epoch, read)
        self._tell()

    def _look_at_ends(self, wanted: Mapping[Place, int]) -> None:
        if time.monotonic() - self._looked < ENDS_S:
            return
        told: dict[Place, int] = {}
        for place in wanted:
            with suppress(KafkaException):  # not heard of yet
                told[place] = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)[1]
        self._ends = {place: end for place, end in told.items() if end >= 0}
        if self._ends.keys() == wanted.keys():
            self._looked = time.monotonic()

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.arrived.set)


def _record(message: Any) -> Record:
    kind, stamp = message.timestamp()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        -1 if kind == TIMESTAMP_NOT_AVAILABLE else stamp,
        message.key(),
        message.value(),
        message,
    )


def _look_at(error: KafkaError) -> None:
    """After most errors librdkafka goes on by itself, as soon as it can; a fatal one ends the worker.

    Raises:
        KafkaException: the error is fatal.
    """
    if error.fatal():
        raise KafkaException(error)
    log.warning("reading events: %s", error.str())
