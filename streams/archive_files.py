"""The archive's format: which Parquet files there are, what their names say, and how each record is read exactly once.

    ROOT/TOPIC/date=2025-01-31/p00003-000000000123-000000000456-334.1of2.parquet

One flush of one partition covers the offsets 123 to 456; its records of that date, 334 of them, are in this file, the
first of the flush's two (one per date). Offsets are all there is to know where to go on, and they are in the names:

* flushes of a partition follow one another, and one begins only when the one before is complete. So at most the last
  one can be incomplete (fewer files than it says); its files are as good as not there.
* a file whose offsets contain those of another, of the same topic, partition and date, is made of it (compaction),
  and stands for it.

Dates are UTC days (or months) of the event's own time, for catalog entries and rejected records of the record's time.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from model_runtime.stores import Store
from streams import topics

if TYPE_CHECKING:
    import pyarrow

TOPICS = (*topics.CATALOG_TOPICS, *topics.EVENT_TOPICS)
Source = tuple[str, int]  #: topic and partition

_NAME = re.compile(
    r"(?P<topic>[^/]+)/date=(?P<date>[0-9-]{7,10})/"
    r"p(?P<partition>\d+)-(?P<first>\d+)-(?P<last>\d+)-(?P<rows>\d+)\.(?P<number>\d+)of(?P<files>\d+)\.parquet"
)


class ArchiveError(RuntimeError):
    """The archive can't be written or read; the message says what to do."""


class Row(NamedTuple):
    """A record as it was on its topic. `error`: why the worker would not accept it (None: it would).

    The ids and `ts_ms` are those of the value, for queries; None where it has none, or is not accepted.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    error: str | None
    user_id: str | None
    video_id: str | None
    comment_id: str | None
    ts_ms: int | None


@dataclass(frozen=True, order=True)
class Part:
    """A file, by what its name says. `last` is the offset of the flush's last record, whatever its date."""

    topic: str
    partition: int
    first: int
    last: int
    number: int
    files: int
    date: str
    rows: int

    @property
    def source(self) -> Source:
        return self.topic, self.partition

    @property
    def name(self) -> str:
        offsets = f"{self.first:012d}-{self.last:012d}"
        return (
            f"{self.topic}/date={self.date}/"
            f"p{self.partition:05d}-{offsets}-{self.rows}.{self.number}of{self.files}.parquet"
        )

    @staticmethod
    def parse(name: str) -> Part | None:
        """The part of a name; None: it names none."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        numbers = ("partition", "first", "last", "number", "files", "rows")
        return Part(topic=found["topic"], date=found["date"], **{field: int(found[field]) for field in numbers})

    def contains(self, other: Part) -> bool:
        """Whether this file was made of the other."""
        same = (self.topic, self.partition, self.date) == (other.topic, other.partition, other.date)
        return same and self != other and self.first <= other.first and other.last <= self.last


@dataclass(frozen=True)
class Survey:
    """What the names of an archive's files say."""

    parts: list[Part]  #: that count; each record is in exactly one of them
    useless: list[Part]  #: of an incomplete flush, or made into another: to be deleted by the writer
    next_offset: dict[Source, int]  #: after the last record of each partition
    last: dict[Source, int]  #: where the last flush of each partition begins; its files must not be compacted


def survey(names: Iterable[str]) -> Survey:
    """Which files count, and where to go on."""
    by_source: dict[Source, list[Part]] = defaultdict(list)
    for name in names:
        if (part := Part.parse(name)) is not None:
            by_source[part.source].append(part)
    parts: list[Part] = []
    useless: list[Part] = []
    next_offset: dict[Source, int] = {}
    begins: dict[Source, int] = {}
    for source, found in by_source.items():
        end = max(part.last for part in found)
        newest = [part for part in found if part.last == end and part.files > 0]
        if newest and len({part.number for part in newest}) < newest[0].files:
            useless += newest
            found = [part for part in found if part not in newest]
        kept = _without_contained(found)
        useless += [part for part in found if part not in kept]
        parts += kept
        if kept:
            next_offset[source] = max(part.last for part in kept) + 1
            begins[source] = next(part.first for part in kept if part.last == next_offset[source] - 1)
    return Survey(sorted(parts), sorted(useless), next_offset, begins)


def _without_contained(parts: Sequence[Part]) -> set[Part]:
    kept: set[Part] = set()
    by_date: dict[str, Part] = {}
    # Of files that begin alike the longest is first, so a file is contained in the last one kept, or in none.
    for part in sorted(parts, key=lambda part: (part.first, -part.last)):
        before = by_date.get(part.date)
        if before is None or not before.contains(part):
            kept.add(part)
            by_date[part.date] = part
    return kept


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Rows as Parquet."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_arrays(
        [pyarrow.array(column, type_) for column, type_ in zip(zip(*rows, strict=True), _types(), strict=True)],
        names=list(Row._fields),
    )
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def decode_rows(data: bytes, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """The table of a part; only some columns, if named."""
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(data), columns=columns)


def read_rows(
    store: Store, topic: str, *, since: str = "", until: dict[Source, int] | None = None
) -> Iterator[tuple[Source, pyarrow.Table]]:
    """Each record of a topic once, in tables; also while an archiver writes and compacts.

    Args:
        since: only from this date on, `2025-01-31`; every date by default.
        until: per partition the offset to stop before, to read the same again later; partitions that are not named
            are left out. None: all that is there.

    Raises:
        StoreError: the archive does not answer.
        ArchiveError: files vanish faster than they can be read.
    """
    done: dict[tuple[Source, str], list[Part]] = defaultdict(list)
    for _ in range(20):
        found = survey(store.names(topic))
        until = found.next_offset if until is None else until
        new = False
        for part in found.parts:
            end = until.get(part.source, 0)
            before = done[part.source, part.date]
            known = any(one == part or one.contains(part) for one in before)
            if known or part.first >= end or part.date < since[: len(part.date)]:
                continue
            new = True
            try:
                table = _only(decode_rows(store.get(part.name)), before, end)
            except FileNotFoundError:
                break  # made into a larger one since it was listed
            before.append(part)
            yield part.source, table
        # A listing made during a compaction may miss both the small files and the large one: the next one doesn't.
        if not new:
            return
    raise ArchiveError(
        f"files of {store.uri}/{topic} vanish while they are read; does more than one archiver write it?"
    )


def ends(store: Store, of: Collection[str] = TOPICS) -> dict[Source, int]:
    """Per partition of these topics the offset after the last archived record. Raises StoreError."""
    found: dict[Source, int] = {}
    for topic in of:
        found |= survey(store.names(topic)).next_offset
    return found


def _only(table: pyarrow.Table, read: Sequence[Part], end: int) -> pyarrow.Table:
    """The rows before `end` that were in none of the parts read before."""
    from pyarrow import compute

    for part in read:
        inside = compute.and_(
            compute.greater_equal(table["offset"], part.first), compute.less_equal(table["offset"], part.last)
        )
        table = table.filter(compute.invert(inside))
    return table.filter(compute.less(table["offset"], end))


def _types() -> list[pyarrow.DataType]:
    import pyarrow

    number, raw, text = pyarrow.int64(), pyarrow.binary(), pyarrow.string()
    return [number, number, raw, raw, text, text, text, text, number]
