"""Whatever the archiver was doing when it died, its file names tell what counts, and each record is read once."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.stores import FolderStore
from streams.archive import Archiver, ArchiveSettings, date_of
from streams.archive_files import Part, Row, decode_rows, encode_rows, read_rows, survey

DAY = 24 * 3600 * 1000
SOURCE = ("video-views", 3)


class Died(Exception):
    pass


class Dying(FolderStore):
    """A folder whose process dies before its `n`-th change."""

    def __init__(self, root: Path, n: int) -> None:
        super().__init__(root)
        self.left = n

    def put(self, name: str, data: bytes) -> None:
        self._change()
        super().put(name, data)

    def delete(self, name: str) -> None:
        self._change()
        super().delete(name)

    def _change(self) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1


def row(offset: int, day: int) -> Row:
    return Row(offset, 5, b"u", b"{}", None, "u", "v", None, day * DAY)


def archive(store: FolderStore, rows: list[Row], sizes: list[int]) -> None:
    """What a run does with the rows that come after what is there, in flushes of these sizes."""
    archiver = Archiver(store, "", ArchiveSettings(compact_files=2))
    at = archiver._clean_up().next_offset.get(SOURCE, 0)
    rest = [r for r in rows if r.offset >= at]
    for size in [*sizes, len(rest)]:
        archiver._buffers[SOURCE], rest = rest[:size], rest[size:]
        archiver._flush(SOURCE)


def read(store: FolderStore) -> list[tuple[int, int]]:
    found = []
    for source, table in read_rows(store, SOURCE[0]):
        assert source == SOURCE
        found += zip(table["offset"].to_pylist(), (ms // DAY for ms in table["ts_ms"].to_pylist()), strict=True)
    return sorted(found)


@settings(max_examples=60)
@given(
    days=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    gaps=st.lists(st.integers(1, 3), min_size=12, max_size=12),
    sizes=st.lists(st.integers(1, 4), max_size=6),
    deaths=st.lists(st.integers(0, 12), max_size=4),
)
def test_each_record_is_read_once_after_any_deaths(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], gaps: list[int], sizes: list[int], deaths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    offset, rows = 0, []
    for day, gap in zip(days, gaps, strict=False):
        rows.append(row(offset, day))
        offset += gap  # offsets have gaps where the topic was compacted
    everything = [(r.offset, r.ts_ms // DAY) for r in rows if r.ts_ms is not None]
    for n in deaths:
        with suppress(Died):
            archive(Dying(folder, n), rows, sizes)
        found = read(FolderStore(folder))
        assert found == everything[: len(found)], "a prefix, each once"
    archive(FolderStore(folder), rows, sizes)
    assert read(FolderStore(folder)) == everything
    archiver = Archiver(FolderStore(folder), "")
    assert not archiver._clean_up().useless
    parts = [Part.parse(path.relative_to(folder).as_posix()) for path in folder.rglob("*.parquet")]
    assert sum(part.rows for part in parts if part) == len(rows), "no reader needs to know the rules after a clean stop"


def test_reading_goes_on_while_files_are_compacted(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    rows = [row(i, i % 2) for i in range(40)]
    archiver = Archiver(store, "", ArchiveSettings(compact_files=100))
    for at in range(0, 40, 4):
        archiver._buffers[SOURCE] = rows[at : at + 4]
        archiver._flush(SOURCE)
    reading = read_rows(store, SOURCE[0])
    found = [next(reading)[1] for _ in range(3)]
    compacting = Archiver(store, "", ArchiveSettings(compact_files=2))
    compacting._clean_up()
    for date in ("1970-01-01", "1970-01-02"):
        compacting._compact(SOURCE, date)
    found += [table for _, table in reading]
    assert sorted(offset for table in found for offset in table["offset"].to_pylist()) == list(range(40))


def test_the_same_rows_are_read_again_up_to_the_same_offsets(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    rows = [row(i, i // 5) for i in range(30)]
    archive(store, rows[:20], [7, 7])
    until = survey(store.names(SOURCE[0])).next_offset
    archive(store, rows, [3, 3])
    found = [t["offset"].to_pylist() for _, t in read_rows(store, SOURCE[0], until={SOURCE: until[SOURCE] - 4})]
    assert sorted(chain.from_iterable(found)) == list(range(16))
    since = [t["offset"].to_pylist() for _, t in read_rows(store, SOURCE[0], since="1970-01-05")]
    assert sorted(chain.from_iterable(since)) == list(range(20, 30))


@given(
    st.builds(
        Part,
        st.sampled_from(["video-views", "comments"]),
        *[st.integers(0, 10**15)] * 3,
        st.integers(1, 99),
        st.integers(1, 99),
        st.sampled_from(["2025-01-31", "1970-01"]),
        st.integers(0, 10**9),
    )
)
def test_a_name_says_all_of_a_part(part: Part) -> None:
    assert Part.parse(part.name) == part
    assert Part.parse(f"x{part.name}y") is None


def test_rows_come_back_as_they_were_whatever_they_hold() -> None:
    rows = [
        Row(0, 1, b"k", b'{"a": 1}', None, "u", "v", "c", 5),
        Row(1, 2, None, None, "empty: the value is empty", None, None, None, None),
        Row(2, 3, b"\xff\x00", bytes(range(256)), "not-json: ...", None, None, None, None),
    ]
    assert [Row(*values.values()) for values in decode_rows(encode_rows(rows)).to_pylist()] == rows


def test_dates_are_of_the_event_else_of_the_record() -> None:
    assert date_of(row(0, 1), "day") == "1970-01-02"
    assert date_of(row(0, 40), "month") == "1970-02"
    assert date_of(Row(0, 2 * DAY, b"k", b"{", "not-json", None, None, None, None), "day") == "1970-01-03"
