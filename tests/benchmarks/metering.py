"""Feeding an application of a benchmark, and counting what the broker has confirmed of its output.

Nothing is asked of the application itself: the ends of its topics and what its group has committed say how far it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from streams.topics import EVENT_TOPICS
from tests.benchmarks.workload import Record

#: events published and not answered yet, where as many come as are answered
OUTSTANDING = 500
POLL_S = 0.01
_MOVING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,  # of a topic that has just been made
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
PATIENCE_S = 180.0  #: without any progress; a busy machine takes long to start PyTorch


class Meter:
    """Ends of topics, and offsets of groups, of one broker."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
        self._readers: dict[str, Consumer] = {}
        self._places: dict[str, list[TopicPartition]] = {}

    def ends(self, *topics: str) -> dict[tuple[str, int], int]:
        """The end offset of each partition of some topics; a topic that is not there yet has none."""
        places = [place for topic in topics for place in self._partitions(topic)]
        if not places:
            return {}

        def ask() -> dict[tuple[str, int], int]:
            asked = self.admin.list_offsets({place: OffsetSpec.latest() for place in places})
            return {(place.topic, place.partition): future.result().offset for place, future in asked.items()}

        return _patiently(ask)

    def count(self, *topics: str) -> int:
        """How many records were ever written to some topics."""
        return sum(self.ends(*topics).values())

    def create(self, topic: str, partitions: int) -> None:
        """A topic with one replica, and wait until it can be asked for."""
        for future in self.admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            with suppress(KafkaException):  # it is there
                future.result()
        wait_for(lambda: len(self._partitions(topic)) == partitions, f"topic {topic}", 30)
        time.sleep(0.5)  # its leaders

    def committed(self, group: str, *topics: str) -> int:
        """The sum of a group's committed offsets on some topics (default: the event topics)."""
        if group not in self._readers:  # it never joins the group: nothing is subscribed
            settings = {"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 2}
            self._readers[group] = Consumer({**settings, "enable.auto.commit": False})
        places = [place for topic in topics or EVENT_TOPICS for place in self._partitions(topic)]
        # (The admin client's own question for this, `list_consumer_group_offsets`, ended the process now and then.)
        found = _patiently(lambda: self._readers[group].committed(places, timeout=10))
        return sum(max(0, place.offset) for place in found)

    def start_at(self, group: str, offsets: dict[tuple[str, int], int]) -> None:
        """What a group that has no member reads next."""
        places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        asked = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        asked[group].result()

    def _partitions(self, topic: str) -> list[TopicPartition]:
        if topic not in self._places:
            about = self.admin.list_topics(timeout=10).topics.get(topic)
            if about is None or about.error is not None:
                return []
            self._places[topic] = [TopicPartition(topic, p) for p in sorted(about.partitions)]
        return self._places[topic]


def _patiently(ask: Callable[[], Any]) -> Any:
    """The answer, though who leads new partitions and groups is told to clients a moment late."""
    until = time.monotonic() + 10
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _MOVING or time.monotonic() > until:
                raise
            time.sleep(0.1)


class Feeder:
    """Publishes prepared records."""

    def __init__(self, bootstrap: str, **settings: Any) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 1, "compression.type": "lz4", "log_level": 2, **settings}
        )

    def send(self, records: Iterable[Record]) -> None:
        """Hand over; returns before they are confirmed."""
        for topic, partition, key, value in records:
            while True:
                try:
                    self._producer.produce(topic, value, key, partition)
                    break
                except BufferError:
                    self._producer.poll(0.01)
        self._producer.poll(0)

    def close(self) -> None:
        """Confirm everything, and let go of the broker."""
        self.flush()

    def flush(self) -> None:
        """Until everything is confirmed."""
        assert self._producer.flush(120) == 0

    def keep_up(
        self,
        records: Sequence[Record],
        answered: Callable[[], int],
        outstanding: int,
        alive: Callable[[], None] = lambda: None,
    ) -> float:
        """Publish as fast as they are answered, at most `outstanding` ahead; returns seconds until all are answered.

        `answered` counts from wherever it stands at the call.
        """
        start, sent, done = answered(), 0, 0
        began = moved = time.monotonic()
        while done < len(records):
            more = min(len(records) - sent, outstanding - (sent - done))
            if more > 0:
                self.send(records[sent : sent + more])
                sent += more
            self._producer.poll(POLL_S)
            now = answered() - start
            if now != done:
                done, moved = now, time.monotonic()
            elif time.monotonic() > moved + 1:
                alive()
            assert time.monotonic() < moved + PATIENCE_S, (
                f"{done} of {len(records)} answered, then none for {PATIENCE_S:.0f} s"
            )
        return time.monotonic() - began

    def pace(self, records: Sequence[Record], rate: float) -> list[float]:
        """Publish at a steady rate; when each was handed over (Unix s)."""
        times = []
        began = time.time()
        for number, record in enumerate(records):
            wait = began + number / rate - time.time()
            if wait > 0.0005:
                self._producer.poll(0)
                time.sleep(wait)
            times.append(time.time())
            self.send((record,))
        return times


def wait_for(
    condition: Callable[[], bool], what: str, seconds: float = 120, alive: Callable[[], None] = lambda: None
) -> float:
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        alive()
        assert time.monotonic() < began + seconds, f"{what}: not within {seconds} s"
        time.sleep(POLL_S)
    return time.monotonic() - began


def cpu_seconds(*pids: int) -> float:
    """User and system time that processes have spent, with all their threads."""
    tick = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / tick


def busy_seconds() -> float:
    """Time that all cores of the machine have spent with anything, the kernel's own work included."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
