"""The shares of a worker's partitions: what is counted, what is to be published, and what others' records change.

A pure core, without Kafka: `streams.live_topic` moves the records.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from model_runtime.signals import KINDS, Signals
from streams.events import CommentInteraction, VideoView
from streams.live_records import mark_message, partition_of_key, share_messages, take_in
from streams.outbox import Message
from streams.slices import Partition
from streams.topics import EVENT_TOPICS

log = logging.getLogger(__name__)

#: records made, or taken in, before the event loop gets its turn
RECORDS = 500
_KIND_OF = dict(zip(EVENT_TOPICS, KINDS, strict=True))


class Applied(NamedTuple):
    """An event that was taken: when it happened, where it stood, and what was engaged with (None: with nothing)."""

    ts_ms: int
    offset: int
    item: str | None

    @staticmethod
    def of(event: VideoView | CommentInteraction, record: Any, engaged: bool) -> Applied:
        """An event and the record that it came in."""
        ts_ms = event.ts_ms if record.timestamp < 0 else min(event.ts_ms, record.timestamp)
        if not engaged:
            return Applied(ts_ms, record.offset, None)
        item = event.video_id if isinstance(event, VideoView) else event.comment_id
        return Applied(ts_ms, record.offset, item)


class Shares:
    """Counts events of our partitions into their shares, and takes in the shares of others.

    A partition is ours from `own` on; its events from before that wait. Events below its mark, the offset up to which
    the published share counts them, are not counted again.
    """

    def __init__(self, signals: Signals, places: int) -> None:
        """`places`: partitions of the topic `live-signals`."""
        self.signals = signals
        self.ours: set[int] = set()
        self._places = places
        self._waiting: dict[int, list[tuple[str, list[Applied], int]]] = {}
        self._taken: list[tuple[str, int, list[Applied], int]] = []  # and to be counted
        self._marks: dict[Partition, int] = {}  # as published
        self._counted: dict[Partition, int] = {}  # our partitions' events that are counted
        self._changed: dict[tuple[str, int], dict[str, None]] = {}
        self._fading = 0

    # --- count --------------------------------------------------------------------------------------------------------

    def take(self, topic: str, partition: int, applied: list[Applied], end: int) -> None:
        """A slice of events in offset order, up to `end`, was applied to the users' states."""
        if applied:
            self.signals.advance(max(event.ts_ms for event in applied))
        if partition in self.ours:
            self._taken.append((topic, partition, applied, end))
        else:
            self._waiting.setdefault(partition, []).append((topic, applied, end))

    def count(self) -> None:
        """Count what was taken. For many slices at once this costs little more than for one."""
        taken, self._taken = self._taken, []
        kinds: dict[str, dict[int, list[Applied]]] = {}
        for topic, partition, applied, end in taken:
            place = (topic, partition)
            mark = self._marks.get(place, 0)
            new = kinds.setdefault(_KIND_OF[topic], {}).setdefault(partition, [])
            new += [event for event in applied if event.item is not None and event.offset >= mark]
            self._counted[place] = max(end, mark)
        for kind, partitions in kinds.items():
            shares = {
                partition: ([event.item for event in new if event.item is not None], [event.ts_ms for event in new])
                for partition, new in partitions.items()
            }
            self.signals.add(kind, shares)
            for partition, (ids, _) in shares.items():
                self._changed.setdefault((kind, partition), {}).update(dict.fromkeys(ids))

    # --- the life of partitions ---------------------------------------------------------------------------------------

    def own(self, partitions: Iterable[int], ends: Mapping[Partition, int]) -> None:
        """Partitions are ours, and their shares as published are taken in. `ends`: where their events end."""
        for place, end in ends.items():
            if self._marks.get(place, 0) > end:
                log.warning("%s[%d] ends before what was counted of it: it was made anew", *place)
                self._marks[place] = 0
        for partition in partitions:
            self.ours.add(partition)
            for topic, applied, end in self._waiting.pop(partition, []):
                self._taken.append((topic, partition, applied, end))
        self.count()

    def disown(self) -> bool:
        """No partition is ours any more. Returns whether something was counted that is not published."""
        self.count()
        unpublished = any(self._changed.values())
        self.ours.clear()
        for kept in (self._waiting, self._counted, self._changed):
            kept.clear()
        return unpublished

    def clear(self) -> None:
        """Forget all counts, to take them in from the topic's beginning."""
        self.signals.clear()
        self._marks.clear()

    # --- tell and hear ------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[list[Message]]:
        """What changed since the last time, a few records at a time; then the marks, if all of that was asked for."""
        self.count()
        changed, counted = self._changed, dict(self._counted)
        self._changed = {}
        for (kind, partition), ids in changed.items():
            names, place = list(ids), partition % self._places
            for first in range(0, len(names), RECORDS):
                yield list(share_messages(self.signals, kind, partition, names[first : first + RECORDS], place))
        marks = {place: offset for place, offset in counted.items() if offset != self._marks.get(place)}
        self._marks.update(marks)
        yield [mark_message(t, p, offset, p % self._places) for (t, p), offset in marks.items()]

    def hear(self, records: Sequence[Any]) -> int:
        """Take in records (aiokafka's, in order), but for those of our own; returns how many."""
        others = [record for record in records if partition_of_key(record.key) not in self.ours]
        take_in(others, self.signals, self._marks)
        return len(others)

    def fade(self) -> None:
        """Look through one tally for what faded; they take turns. Of our partitions, others will hear of it."""
        self.count()
        tallies = [(kind, which) for kind in KINDS for which in (None, *sorted(self.signals.kinds[kind].shares))]
        self._fading = (self._fading + 1) % len(tallies)
        kind, partition = tallies[self._fading]
        dropped = self.signals.kinds[kind].forget(partition, self.signals.now_ms)
        if partition is not None and partition in self.ours:
            self._changed.setdefault((kind, partition), {}).update(dict.fromkeys(dropped))
