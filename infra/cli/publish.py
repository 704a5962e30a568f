"""`lsvcr publish`: send files of events to Kafka, and say of each line that is wrong what is wrong."""

from __future__ import annotations

import gzip
import json
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from streams.publisher import Publisher

#: Rejected lines that are shown; `--rejects` has them all.
SHOWN = 20
#: Lines between two looks at the clock: often enough for a smooth bar, and cheap.
_STEP = 500


@dataclass
class Source:
    """One file, and what came of its lines."""

    path: str
    topic: str
    sent: int = 0
    rejected: int = 0


@dataclass
class Tally:
    """What a run did. `failed` lines were sent but never confirmed."""

    sources: list[Source]
    rejects: list[dict[str, Any]] = field(default_factory=list)
    failed: int = 0
    stopped: str | None = None

    @property
    def accepted(self) -> int:
        return sum(source.sent for source in self.sources) - self.failed

    @property
    def rejected(self) -> int:
        return sum(source.rejected for source in self.sources)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--topic", help="Topic of every file. Default: the file's name without .jsonl and .gz.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many lines a second.")
@click.option("--dry-run", is_flag=True, help="Check every line, send nothing; needs no Kafka.")
@click.option("--rejects", "rejects_path", type=click.Path(dir_okay=False), help="File for all rejected lines (JSONL).")
@click.option("--source", help="Add CloudEvents headers with this ce_source.")
@click.option(
    "--bootstrap-servers",
    envvar="LSVCR_BOOTSTRAP_SERVERS",
    default="localhost:9092",
    show_default=True,
    show_envvar=True,
    help="Kafka's address: host:port, several with commas.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def command(
    paths: tuple[str, ...],
    topic: str | None,
    rate: float | None,
    dry_run: bool,
    rejects_path: str | None,
    source: str | None,
    bootstrap_servers: str,
    as_json: bool,
) -> None:
    """Publish events and catalog entries from JSON Lines.

    PATH is a file (`video-views.jsonl`, also `.jsonl.gz`), `-` for standard input, or a folder: then its files named
    after topics, the catalog first. Every line is checked before it is sent. Wrong lines are listed and left out, the
    others are sent; the exit code is 1 if any line was rejected or not confirmed. A file may be published again: events
    are told apart by their event_id.
    """
    from streams.publisher import Publisher, PublishError

    tally = Tally(_sources(paths, topic))
    started = time.monotonic()
    with ExitStack() as stack:
        rejects = stack.enter_context(open(rejects_path, "w", encoding="utf-8")) if rejects_path else None
        publisher = None
        if not dry_run:
            try:
                publisher = Publisher(bootstrap_servers, source=source)
            except PublishError as error:
                raise click.ClickException(str(error)) from error
        try:
            _publish_all(tally, publisher, rate, rejects)
        except KeyboardInterrupt:
            tally.stopped = "interrupted"
        except PublishError as error:
            _record_failures(tally, error, rejects)
        if publisher is not None:
            try:
                publisher.close()
            except PublishError as error:
                _record_failures(tally, error, rejects)
    _report(tally, time.monotonic() - started, dry_run, rejects_path, as_json)
    if tally.rejected or tally.failed or tally.stopped:
        sys.exit(1)


def _sources(paths: tuple[str, ...], topic: str | None) -> list[Source]:
    """The files to read, each with its topic.

    Raises:
        click.UsageError: a path that does not exist, or a file whose topic can't be told.
    """
    from streams import topics
    from streams.events import TYPES

    if topic is not None and topic not in TYPES:
        raise click.UsageError(f"--topic {topic}: there are events for {', '.join(TYPES)}")
    sources = []
    for path in paths:
        if path != "-" and not Path(path).exists():
            raise click.UsageError(f"{path} does not exist")
        if path != "-" and Path(path).is_dir():
            order = (*topics.CATALOG_TOPICS, *topics.EVENT_TOPICS)
            names = [(name, Path(path, f"{name}.jsonl{end}")) for name in order for end in ("", ".gz")]
            found = [Source(str(file), name) for name, file in names if file.exists() and topic in (None, name)]
            if not found:
                raise click.UsageError(f"folder {path} has no file named after a topic, such as video-views.jsonl")
            sources += found
            continue
        name = topic or Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
        if name not in TYPES:
            raise click.UsageError(f"the topic of {path} is not in its name; give --topic: one of {', '.join(TYPES)}")
        sources.append(Source(path, name))
    return sources


def _publish_all(tally: Tally, publisher: Publisher | None, rate: float | None, rejects: IO[str] | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), "{task.description}", BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(
        *columns,
        TextColumn("{task.fields[lines]:,} lines, {task.fields[per_second]:,.0f}/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        pace = _Pace(rate)
        for source in tally.sources:
            size = Path(source.path).stat().st_size if source.path != "-" else None
            task = progress.add_task(f"{source.path} → {source.topic}", total=size, lines=0, per_second=0.0)
            _publish_one(tally, source, publisher, pace, rejects, progress, task)
            if tally.stopped:
                return


def _publish_one(
    tally: Tally,
    source: Source,
    publisher: Publisher | None,
    pace: _Pace,
    rejects: IO[str] | None,
    progress: Progress,
    task: TaskID,
) -> None:
    from streams import events
    from streams.publisher import EventError

    started = time.monotonic()
    with ExitStack() as stack:
        raw = sys.stdin.buffer if source.path == "-" else stack.enter_context(open(source.path, "rb"))
        stream: Any = stack.enter_context(gzip.open(raw)) if source.path.endswith(".gz") else raw
        for number, line in _lines(tally, source, stream):
            pace.wait()
            try:
                if publisher is not None:
                    publisher.publish(line, topic=source.topic)
                else:
                    events.decode_value(source.topic, line, now_ms=time.time_ns() // 1_000_000)
                source.sent += 1
            except EventError as error:
                source.rejected += 1
                reason = {"code": error.code, "field": error.field, "reason": error.reason}
                _reject(tally, {"path": source.path, "line": number, **reason}, line, rejects)
            done = source.sent + source.rejected
            if done % _STEP == 0 or pace.slow:
                position = raw.tell() if source.path != "-" else None
                rate = done / max(time.monotonic() - started, 1e-9)
                progress.update(task, completed=position, lines=done, per_second=rate)


def _lines(tally: Tally, source: Source, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1), without line ends, blank ones left out."""
    number = 0
    try:
        for number, line in enumerate(stream, 1):
            text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
            if text:
                yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        tally.stopped = f"{source.path} can't be decompressed after line {number}: {error}"


class _Pace:
    """Holds the lines to a rate. After a stall it does not rush to catch up for more than a second."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = time.monotonic()
        self.slow = rate is not None and rate < 10 * _STEP

    def wait(self) -> None:
        if not self._gap:
            return
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now - 1) + self._gap


def _reject(tally: Tally, what: dict[str, Any], value: bytes, rejects: IO[str] | None) -> None:
    if len(tally.rejects) < SHOWN:
        tally.rejects.append(what)
    if rejects is not None:
        print(json.dumps({**what, "value": value.decode("utf-8", "backslashreplace")}), file=rejects)


def _record_failures(tally: Tally, error: Any, rejects: IO[str] | None) -> None:
    tally.stopped = str(error)
    tally.failed += len(error.failures)
    for failure in error.failures:
        what = {"topic": failure.topic, "code": "unconfirmed", "reason": failure.reason}
        if rejects is not None:
            print(json.dumps({**what, "value": (failure.value or b"").decode()}), file=rejects)


def _report(tally: Tally, seconds: float, dry_run: bool, rejects_path: str | None, as_json: bool) -> None:
    per_second = (tally.accepted + tally.rejected) / max(seconds, 1e-9)
    if as_json:
        summary = {
            "dry_run": dry_run,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "failed": tally.failed,
            "stopped": tally.stopped,
            "seconds": round(seconds, 3),
            "files": [asdict(source) for source in tally.sources],
            "rejects": tally.rejects,
        }
        click.echo(json.dumps(summary))
        return
    for source in tally.sources:
        verb = "correct" if dry_run else "sent"
        click.echo(f"{source.path} → {source.topic}: {source.sent:,} {verb}, {source.rejected:,} rejected")
    for reject in tally.rejects:
        click.echo(f"  {reject['path']}:{reject['line']}: {reject['code']}: {reject['reason']}")
    if tally.rejected > len(tally.rejects):
        where = f"all are in {rejects_path}" if rejects_path else "--rejects FILE writes them all"
        click.echo(f"  ... and {tally.rejected - len(tally.rejects):,} more: {where}")
    if tally.failed:
        click.echo(f"{tally.failed:,} were sent but not confirmed")
    verb = "correct" if dry_run else "accepted"
    click.echo(f"{tally.accepted:,} {verb}, {tally.rejected:,} rejected in {seconds:.1f} s ({per_second:,.0f}/s)")
    if tally.stopped:
        click.echo(f"Stopped early: {tally.stopped}", err=True)
