"""The records of the compacted topic `live-signals`: shares of counts, and up to where the events are counted in them.

    key `3:video:v17`                  value {"at_ms": ..., "first_ms": ..., "counts": {"3600000": 1.94, ...}}
    key `3:offset:video-views`         value {"offset": 4711}

The first is partition 3's share of a video's (or a `comment`'s) counts: half-life in ms, decayed count at `at_ms`; and
when that partition's users engaged with it first. A null value: it faded. The second says that all engagements of that
partition of that topic with lower offsets are in the shares. It is written after them, to the same partition.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.signals import KINDS, NEVER_MS, Signals
from streams.outbox import Message
from streams.topics import EVENT_TOPICS, LIVE_SIGNALS

log = logging.getLogger(__name__)

_OFFSET = "offset"
_DIGITS = 6  # of a count; what is lost is less than what has faded


class Share(Struct, frozen=True, gc=False):
    """One partition's counts of one item."""

    at_ms: int
    first_ms: int
    counts: dict[str, float]


class Mark(Struct, frozen=True, gc=False):
    """Events with lower offsets are counted."""

    offset: int


class Key(NamedTuple):
    """`kind`: `video`, `comment`, or `offset`, whose `name` is the topic."""

    partition: int
    kind: str
    name: str


_SHARES = msgspec.json.Decoder(Share)
_MARKS = msgspec.json.Decoder(Mark)
_ENCODE = msgspec.json.Encoder().encode


def partition_of_key(key: bytes | None) -> int:
    """The event partition that a record is about; -1 if it is about none."""
    head = (key or b"").partition(b":")[0]
    return int(head) if head.isdigit() else -1


def read_key(key: bytes) -> Key | None:
    """The parts of a record's key; None if it is none of ours."""
    partition, _, rest = key.decode("utf-8", "replace").partition(":")
    kind, _, name = rest.partition(":")
    known = partition.isdigit() and ((kind in KINDS and name) or (kind == _OFFSET and name in EVENT_TOPICS))
    return Key(int(partition), kind, name) if known else None


def share_messages(signals: Signals, kind: str, partition: int, ids: Sequence[str], place: int) -> Iterator[Message]:
    """A partition's share of some items as it is now, to partition `place` of the topic; null for what faded."""
    share = signals.kinds[kind].share(partition)
    now_ms = signals.now_ms
    there = [id_ for id_ in ids if id_ in share.index]
    rows = share.rows(there)
    names = [f"{half_life:.0f}" for half_life in signals.half_lives_ms]
    counts = share.counts.at(now_ms, rows).round(_DIGITS).tolist()
    first_ms = share.first_ms.values()[rows].tolist()
    for id_, figures, first in zip(there, counts, first_ms, strict=True):
        value = _ENCODE(Share(now_ms, first, dict(zip(names, figures, strict=True))))
        yield Message(LIVE_SIGNALS, place, f"{partition}:{kind}:{id_}".encode(), value)
    for id_ in set(ids) - set(there):
        yield Message(LIVE_SIGNALS, place, f"{partition}:{kind}:{id_}".encode(), None)


def mark_message(topic: str, partition: int, offset: int, place: int) -> Message:
    """That all of a partition's events below `offset` are counted."""
    return Message(LIVE_SIGNALS, place, f"{partition}:{_OFFSET}:{topic}".encode(), _ENCODE(Mark(offset)))


def take_in(records: Iterable[Any], signals: Signals, marks: dict[tuple[str, int], int]) -> None:
    """Take in some records (aiokafka's, in order) of partitions that are not ours, or not yet."""
    newest: dict[tuple[int, str], dict[str, Share | None]] = {}
    for record in records:
        key = read_key(record.key or b"")
        try:
            if key is None:
                raise ValueError("the key is not partition:kind:id")
            if key.kind == _OFFSET:
                place = (key.name, key.partition)
                marks[place] = 0 if record.value is None else _MARKS.decode(record.value).offset
                continue
            share = None if record.value is None else _SHARES.decode(record.value)
        except (ValueError, msgspec.DecodeError) as error:
            log.warning("skipping %s[%d]@%d: %s", LIVE_SIGNALS, record.partition, record.offset, error)
            continue
        newest.setdefault((key.partition, key.kind), {})[key.name] = share
    for (partition, kind), shares in newest.items():
        _replace(signals, partition, kind, shares)


def _replace(signals: Signals, partition: int, kind: str, shares: dict[str, Share | None]) -> None:
    names = [f"{half_life:.0f}" for half_life in signals.half_lives_ms]
    found = list(shares.values())
    at_ms = np.array([0 if share is None else share.at_ms for share in found], np.float64)
    first_ms: NDArray[np.int64] = np.array([NEVER_MS if share is None else share.first_ms for share in found])
    counts = np.array([[0.0 if share is None else share.counts.get(name, 0.0) for name in names] for share in found])
    # One moment for all of them: a share of an earlier one is worth less by now.
    now_ms = max(int(at_ms.max()), signals.now_ms)
    counts *= np.exp2((at_ms[:, None] - now_ms) / np.array(signals.half_lives_ms))
    signals.kinds[kind].replace(partition, list(shares), counts, now_ms, first_ms)
    signals.advance(int(at_ms.max()))
