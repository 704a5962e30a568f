"""A steady stream of events in a thread of its own, and an exact account of what must have come of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import msgspec
from support.topic_reader import read_topic, without_origin

from streams import history, state_record, topics
from streams.events import CommentInteraction, VideoView
from streams.history import HistoryConfig
from tests.benchmarks.metering import Feeder, Meter
from tests.benchmarks.workload import Users, records

CHUNK_S = 0.25
UNCOVERED = "users whose newest list misses their last event"
WRONG = "users whose state misses an event"

_Event = VideoView | CommentInteraction


class _Trigger(msgspec.Struct):
    event_id: str
    ts_ms: int


class _List(msgspec.Struct):
    user_id: str
    trigger: _Trigger


class Steady:
    """Publishes users' events at a rate, from `with` on until its end; keeps what each user's state must become."""

    def __init__(self, meter: Meter, users: Users, rate: float, partitions: int) -> None:
        self.meter, self.users, self.rate, self.partitions = meter, users, rate, partitions
        self.published = 0
        self.last: dict[str, _Event] = {}
        self._config = HistoryConfig()
        self._states = {key.decode(): state for key, state in users.states()}
        self._fold(users.made())
        self._feeder = Feeder(meter.bootstrap)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        self._feeder.flush()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._stopped.is_set():
                log = self.users.events(max(1, int(self.rate * CHUNK_S)))
                self._feeder.pace(records(log, self.partitions), self.rate)
                self.published += len(log)
                self._fold(log)
                # What folding took is made up for, so that the rate is kept.
                behind = time.monotonic() - began - self.published / self.rate
                if behind < 0:
                    time.sleep(-behind)
        except BaseException as error:
            self._error = error

    def _fold(self, log: Sequence[Any]) -> None:
        for event in log:
            user = event.user_id
            self._states[user] = history.apply(self._states[user], event, self._config)
            self.last[user] = event

    def check(self) -> dict[str, int]:
        """Reads all lists and states. How many users' newest list, or state, is not what their events must lead to.

        A list covers an event if its trigger is the event or a later one of the same user. States are compared with a
        fold of all events that were published, so an event that was lost anywhere is found.
        """
        newest: dict[str, int] = {}
        decode = msgspec.json.Decoder(_List).decode
        for record in read_topic(self.meter.bootstrap, topics.VIDEO_RECOMMENDATIONS):
            found = decode(record.value())
            newest[found.user_id] = max(found.trigger.ts_ms, newest.get(found.user_id, 0))
        states: dict[str, bytes] = {}
        for record in read_topic(self.meter.bootstrap, topics.STATE_CHANGELOG):
            if (user := record.key().decode()) in self.last:
                states[user] = record.value()
        found_states = {user: without_origin(state_record.decode(value)) for user, value in states.items()}
        uncovered = [user for user, event in self.last.items() if newest.get(user, 0) < event.ts_ms]
        wrong = [user for user in self.last if found_states.get(user) != without_origin(self._states[user])]
        for user in wrong[:3]:
            print(
                f"  {user}, whose state is not what it must be:\n   {found_states.get(user)}\n   {self._states[user]}"
            )
        return {
            "events published": self.published,
            "users": len(self.last),
            UNCOVERED: len(uncovered),
            WRONG: len(wrong),
        }
