"""`lsvcr archive`: keep what flows, as date-partitioned Parquet."""

from __future__ import annotations

import json
import logging
import signal
import threading
from dataclasses import asdict

import click


@click.command("archive")
@click.option(
    "--to",
    "uri",
    envvar="LSVCR_ARCHIVE",
    default="archive",
    show_default=True,
    help="A folder, or a prefix of an object store such as s3://bucket/archive.",
)
@click.option("--bootstrap-servers", envvar="LSVCR_BOOTSTRAP_SERVERS", default="localhost:9092", show_default=True)
@click.option("--once", is_flag=True, help="Stop when everything that is on the topics now is archived.")
@click.option(
    "--flush-seconds", default=60.0, show_default=True, type=click.FloatRange(0.1), help="The longest a record waits."
)
@click.option("--flush-records", default=50_000, show_default=True, type=click.IntRange(1), help="Of one partition.")
@click.option(
    "--compact-files",
    default=16,
    show_default=True,
    type=click.IntRange(2),
    help="So many small files of one date and partition become one.",
)
@click.option(
    "--partition-by",
    default="day",
    show_default=True,
    type=click.Choice(["day", "month"]),
    help="Months suit old logs with few events a day.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
def command(
    uri: str,
    bootstrap_servers: str,
    once: bool,
    flush_seconds: float,
    flush_records: int,
    compact_files: int,
    partition_by: str,
    as_json: bool,
) -> None:
    """Write both event topics and both catalogs to Parquet, each record exactly once, by day of the event (UTC).

    It may be killed at any time, and started again: where to go on is told by the archive itself. One per archive.
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from model_runtime.stores import StoreError, open_store
    from streams.archive import Archiver, ArchiveSettings
    from streams.archive_files import ArchiveError

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    settings = ArchiveSettings(flush_records, flush_seconds, compact_files, partition_by=partition_by)  # type: ignore[arg-type]
    try:
        import pyarrow  # noqa: F401

        with Archiver(open_store(uri), bootstrap_servers, settings) as archiver:
            summary = archiver.run(stopped, until_end=once)
    except ImportError:
        raise click.ClickException("Parquet needs pyarrow: pip install 'lsvcr[archive]'") from None
    except (ArchiveError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        click.echo(f"archived {summary.records:,} records in {summary.files} files; {summary.compacted} were compacted")
