"""The records of an archive, as the log wants them: accepted ones only, catalogs in the order of their topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from model_runtime.stores import StoreError, local_path, open_store
from streams import topics
from streams.archive_files import TOPICS, ArchiveError, Source, ends, read_rows
from streams.events import Record, decode_value

#: what an archiver has accepted is not judged again by today's clock
_EVER = 2**62


def is_archive(place: str | Path) -> bool:
    """Whether an address is that of an archive: an object store's, or a folder with one of our topics' dates in it."""
    folder = local_path(place)
    return folder is None or any(next((folder / topic).glob("date=*"), None) for topic in TOPICS)


def archived_until(place: str | Path) -> dict[Source, int]:
    """Where the archive ends now, per partition; to read the same again later. Raises StoreError."""
    return ends(open_store(place))


def records(
    place: str | Path, topic: str, *, since: str = "", until: Mapping[Source, int] | None = None
) -> Iterator[Record]:
    """The accepted records of a topic, each once.

    A removal from the catalog is left out: what was known of an entry is still the text of the events with it. (What
    may be recommended is told by the live catalog, not by training.)

    Raises:
        StoreError: the archive does not answer.
        ArchiveError: it can't be read.
    """
    store = open_store(place)
    limits = None if until is None else dict(until)
    if topic in topics.EVENT_TOPICS:
        for _, table in read_rows(store, topic, since=since, until=limits):
            for value, error in zip(table["value"].to_pylist(), table["error"].to_pylist(), strict=True):
                if error is None:
                    yield decode_value(topic, value, now_ms=_EVER)
        return
    # Of an entry that comes twice the last one counts, and files of several dates interleave.
    entries: dict[tuple[int, int], Record] = {}
    for (_, partition), table in read_rows(store, topic, until=limits):
        columns = (table[name].to_pylist() for name in ("offset", "value", "error"))
        for offset, value, error in zip(*columns, strict=True):
            if error is None and value is not None:
                entries[partition, offset] = decode_value(topic, value, now_ms=_EVER)
    for place_ in sorted(entries):
        yield entries[place_]


__all__ = ["ArchiveError", "StoreError", "archived_until", "is_archive", "records"]
