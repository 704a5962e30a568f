"""Users with events that no recommendation covers yet, and the states of those who were active lately."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from streams import history, state_record
from streams.events import CommentInteraction, VideoView
from streams.history import HistoryConfig, UserState
from streams.slices import Slice
from streams.table import UserStateTable
from streams.topics import partition_of


class Pending:
    """A user with events that no recommendation covers yet."""

    __slots__ = ("arrived_ms", "key", "partition", "slices", "state", "user_id")

    def __init__(self, user_id: str, key: bytes, partition: int, state: UserState, arrived_ms: int) -> None:
        self.user_id = user_id
        self.key = key
        self.partition = partition
        self.state = state
        self.slices: list[Slice] = []
        self.arrived_ms = arrived_ms


class Users:
    """Applies events to states. A user is pending once, however many events arrived since the last batch."""

    def __init__(self, table: UserStateTable, config: HistoryConfig, cached_states: int) -> None:
        """`cached_states` must exceed two batches: a state may leave the cache only once it is in the store."""
        self._table = table
        self.config = config  #: may change between two events
        self._cached_states = cached_states
        self._states: dict[bytes, UserState] = {}  # newest state of recently active users, oldest first
        self.pending: dict[bytes, Pending] = {}

    def apply(self, event: VideoView | CommentInteraction, record: Any, slice_: Slice) -> bool:
        """Apply an event (and the record it came in) to its user's state; the slice waits for the user.

        Returns whether it entered a history: an engagement, and not one that was applied before.
        """
        key: bytes = record.key
        pending = self.pending.get(key)
        if pending is not None:
            state = pending.state
        else:
            known = self._states.pop(key, None)
            state = known if known is not None else self._read(record.partition, key)
        before = state
        state = history.apply(before, event, self.config, partition=record.partition, offset=record.offset)
        if pending is None:
            pending = Pending(event.user_id, key, record.partition, state, record.timestamp)
            self.pending[key] = pending
        else:
            pending.state = state
        if not pending.slices or pending.slices[-1] is not slice_:
            pending.slices.append(slice_)
            slice_.waiting += 1
        return state.video is not before.video or state.comment is not before.comment

    def next_batch(self, most: int) -> list[Pending]:
        """The users who have waited longest, at most `most`; they are no longer pending."""
        batch = list(islice(self.pending.values(), most))
        for pending in batch:
            del self.pending[pending.key]
            # Events that arrive from here on make a new pending entry, which begins at this state.
            self._states[pending.key] = pending.state
        while len(self._states) > self._cached_states:
            del self._states[next(iter(self._states))]
        return batch

    def recent(self) -> list[bytes]:
        """The users whose states are at hand, those who were active last first."""
        return list(reversed(self._states))

    def revisit(self, users: Iterable[bytes], partitions: int) -> list[Pending]:
        """These users as a batch, though nothing happened to them; without those who are not at hand any more."""
        batch = []
        for key in users:
            state = self._states.get(key)
            if state is not None and state.newest is not None and key not in self.pending:
                batch.append(Pending(key.decode(), key, partition_of(key, partitions), state, 0))
        return batch

    def clear(self) -> None:
        """Forget everybody: the partitions are no longer ours."""
        self.pending.clear()
        self._states.clear()

    def _read(self, partition: int, key: bytes) -> UserState:
        stored = self._table.read(partition, key)
        return history.EMPTY if stored is None else state_record.decode(stored)
