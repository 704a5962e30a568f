"""`lsvcr convert`: public data sets as event logs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from offline_train.sources.writer import LogWriter, Progress, Summary


@click.group()
def command() -> None:
    """Turn a public data set into an event log: four JSON Lines files, sorted by time, that `lsvcr publish` reads."""


_IN = click.argument("source", metavar="IN", type=click.Path(exists=True, file_okay=False, path_type=Path))
_OUT = click.argument("out", metavar="OUT", type=click.Path(file_okay=False, path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")


@command.command("rotten-tomatoes")
@_IN
@_OUT
@click.option(
    "--min-count",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Reviews that each critic and each film must have; 1 keeps all.",
)
@_JSON
def rotten_tomatoes(source: Path, out: Path, min_count: int, as_json: bool) -> None:
    """Film reviews: a review is a view of the film and a written comment."""
    from offline_train.sources.rotten_tomatoes import convert

    _run(convert, source, out, as_json, min_count=min_count)


@command.command("hetrec-tags")
@_IN
@_OUT
@_JSON
def hetrec_tags(source: Path, out: Path, as_json: bool) -> None:
    """Film tags (HetRec 2011): a tagging is a like of the comment that says the tag."""
    from offline_train.sources.hetrec import convert

    _run(convert, source, out, as_json)


@command.command("kuaicomt")
@_IN
@_OUT
@click.option(
    "--snapshot-likes",
    is_flag=True,
    help="Keep the comments' like counts. They are as of after the period, so an evaluation would see the future.",
)
@_JSON
def kuaicomt(source: Path, out: Path, snapshot_likes: bool, as_json: bool) -> None:
    """KuaiComt (short videos and their comments), from the CSV files that its owners share on request."""
    from offline_train.sources.kuaicomt import convert

    _run(convert, source, out, as_json, snapshot_likes=snapshot_likes)


def _run(convert: Callable[..., LogWriter], source: Path, out: Path, as_json: bool, **options: Any) -> None:
    from offline_train.sources.writer import SourceError

    with progress_bars() as progress:
        try:
            summary = convert(source, out, progress=progress, **options).summary
        except (SourceError, OSError, EOFError, UnicodeDecodeError) as error:
            raise click.ClickException(str(error)) from None
    print_summary(summary, as_json)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A progress callback that draws one bar per stage on standard error."""
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    with rich.Progress(*columns, rich.TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        stages: dict[str, rich.TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total or None)
            bars.update(stages[stage], completed=done, total=total or None)

        yield progress


def print_summary(summary: Summary, as_json: bool) -> None:
    """Print the `Summary` of a log, for a program or for a person."""
    if as_json:
        click.echo(json.dumps(vars(summary)))
        return
    click.echo(f"{summary.source} -> {summary.out} in {summary.seconds:.1f} s")
    for topic, count in summary.counts.items():
        click.echo(f"  {count:>12,}  {topic}.jsonl")
    for what, count in summary.notes.items():
        click.echo(f"  {count:>12,}  {what}")
    if summary.first_ms is not None and summary.last_ms is not None:
        first, last = (datetime.fromtimestamp(ms / 1000, UTC).date() for ms in (summary.first_ms, summary.last_ms))
        click.echo(f"  {summary.users:>12,}  users, from {first} to {last}")
    if summary.dropped:
        click.echo("left out:")
        for reason, count in sorted(summary.dropped.items(), key=lambda item: -item[1]):
            click.echo(f"  {count:>12,}  {reason}")
