"""`lsvcr demo`: the whole path live on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("demo")
@click.option(
    "--seconds", type=click.FloatRange(min=1), help="End after this long and print a summary; else Ctrl-C ends it."
)
@click.option(
    "--rate", default=40.0, show_default=True, type=click.FloatRange(min=0.1), help="Simulated events a second."
)
@click.option(
    "--data-dir",
    envvar="LSVCR_DATA_DIR",
    default=".lsvcr",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The demo uses, and removes, the folder `demo` in it.",
)
def command(seconds: float | None, rate: float, data_dir: Path) -> None:
    """Watch events become recommendations: Kafka, Redis, a worker and simulated users, all on this machine.

    Exit code 1 if a user with events got no recommendation.
    """
    from rich.console import Console

    from infra.demo.run import DemoError, run
    from infra.local.errors import StackError

    console = Console(stderr=True)
    try:
        summary = run(data_dir / "demo", seconds=seconds, rate=rate, console=console)
    except (DemoError, StackError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(summary, indent=2))
    if not 0 < summary["users_with_events"] <= summary["users_with_video_recommendations"]:
        raise click.ClickException("some users with events have no recommendation")
