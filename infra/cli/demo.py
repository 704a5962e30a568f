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
@click.option(
    "--life",
    is_flag=True,
    help="A model's life under that traffic instead: archive, refreshes, a swap, a bad model, a damaged bundle, a "
    "rollback. Needs the extras archive and train; takes some minutes.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --life: where to draw latency against time (PNG).",
)
def command(seconds: float | None, rate: float, data_dir: Path, life: bool, picture: Path | None) -> None:
    """Watch events become recommendations: Kafka, Redis, a worker and simulated users, all on this machine.

    Exit code 1 if a user with events got no recommendation, or if something else did not go as it must.
    """
    from rich.console import Console

    from infra.demo.processes import DemoError
    from infra.local.errors import StackError

    console = Console(stderr=True)
    try:
        if life:
            _check_extras()
            from infra.demo.life import run as live

            click.echo(json.dumps(live(data_dir / "demo", rate=rate, console=console, picture=picture), indent=2))
            return
        from infra.demo.run import run

        summary = run(data_dir / "demo", seconds=seconds, rate=rate, console=console)
    except (DemoError, StackError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(summary, indent=2))
    if not 0 < summary["users_with_events"] <= summary["users_with_video_recommendations"]:
        raise click.ClickException("some users with events have no recommendation")


def _check_extras() -> None:
    try:
        import pyarrow  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise click.ClickException(
            f"{error}; --life trains models: make setup, or pip install 'lsvcr[local,archive,train]'"
        ) from None
