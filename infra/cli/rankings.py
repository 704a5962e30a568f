"""Rankings on the screen: what is asked for, a bar while they are made, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline_train.evaluation import Result

PROTOCOLS = ("sampled", "full", "as-of")
protocol_option = click.option(
    "--protocol",
    "protocols",
    type=click.Choice(PROTOCOLS),
    multiple=True,
    default=("full", "as-of"),
    show_default=True,
    help="Which candidates compete; may be repeated.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many targets per task, evenly spread."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON list.")
#: columns on the screen; `--json` has every metric at every cutoff
_SHOWN = ("recall@1", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "mrr@10")
_LABELS = {"recall": "R", "ndcg": "NDCG", "mrr": "MRR"}


@contextmanager
def bar(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; `advance(done, total, what)` moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        said = {what}

        def advance(done: int, total: int, now: str = what) -> None:
            progress.update(bar, completed=done, total=total, description=now)
            if not progress.console.is_terminal and now not in said:  # in a log file: a line per step
                said.add(now)
                click.echo(f"[{done}/{total}] {now}", err=True)

        yield advance


def show(results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        import json

        fields = ("task", "protocol", "split", "model", "values", "counts", "candidates", "note")
        click.echo(json.dumps([{name: getattr(result, name) for name in fields} for result in results]))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    tables: dict[tuple[str, str], list[Any]] = {}
    for result in results:
        tables.setdefault((result.task, result.protocol), []).append(result)
    for (task, protocol), group in tables.items():
        counts = ", ".join(f"{count:,} {reason}" for reason, count in group[0].counts.items() if count)
        table = Table(title=f"{task}s, {protocol}, {group[0].split} split\n{counts}", title_justify="left")
        table.add_column("model", no_wrap=True)
        for column in _SHOWN:
            metric, cutoff = column.split("@")
            table.add_column(f"{_LABELS[metric]}@{cutoff}", justify="right", no_wrap=True)
        for result in group:
            cells = [f"{result.values[column]:.4f}" if result.values else "-" for column in _SHOWN]
            table.add_row(result.model, *cells, style="bold" if result is group[-1] else None)
        console.print(table)
        for result in group:
            if result.note:
                console.print(f"{result.model}: {result.note}")
