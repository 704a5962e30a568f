"""`lsvcr stack`: Kafka and Redis on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from infra.local.kafka_jars import Progress

_PORT = click.IntRange(0, 65535)


def _data_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="LSVCR_DATA_DIR",
        default="./.lsvcr",
        show_default=True,
        show_envvar=True,
        help="Folder of the data, settings and logs. They survive `down`.",
    )(function)


def _json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")(
        function
    )


@click.group()
def command() -> None:
    """Kafka and Redis on this machine: no Docker, no root, no Java, no Maven."""


@command.command()
@_json_option
def fetch(as_json: bool) -> None:
    """Download Kafka (47 MB, once), so that later starts need no network."""
    from infra.local.kafka_jars import fetch_jars
    from infra.local.programs import find_java, find_redis_server

    with _failing_clearly(), _progress() as progress:
        jars = fetch_jars(progress)
        java, redis = find_java(), find_redis_server()
    found = {"kafka": str(jars), "java": str(java), "redis_server": str(redis)}
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:13}{path}" for name, path in found.items()))


@command.command()
@_data_dir_option
@click.option(
    "--kafka-port",
    type=_PORT,
    envvar="LSVCR_KAFKA_PORT",
    help="Port of Kafka; 0: any free one.  [default: that of the last time, else 9092]",
)
@click.option(
    "--redis-port",
    type=_PORT,
    envvar="LSVCR_REDIS_PORT",
    help="Port of Redis; 0: any free one.  [default: that of the last time, else 6379]",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    envvar="LSVCR_PARTITIONS",
    help="Partitions of the topics that are partitioned by user.  [default: as the last time, else 8]",
)
@click.option("--no-topics", is_flag=True, help="Create no topics.")
@_json_option
def up(
    data_dir: Path,
    kafka_port: int | None,
    redis_port: int | None,
    partitions: int | None,
    no_topics: bool,
    as_json: bool,
) -> None:
    """Start both, wait until they answer, create the topics. Says where they are if they run already."""
    from infra.local.stack import LocalStack

    with _failing_clearly(), _progress() as progress:
        stack = LocalStack(
            data_dir, kafka_port, redis_port, topics=not no_topics, partitions=partitions, progress=progress
        )
        info = stack.up()
    if as_json:
        shown = {
            "bootstrap_servers": info.bootstrap_servers,
            "redis_url": info.redis_url,
            "data_dir": str(stack.data_dir),
            "logs_dir": str(info.logs_dir),
            "started": info.started,
        }
        click.echo(json.dumps(shown))
        return
    click.echo("Kafka and Redis are up." if info.started else "Kafka and Redis were running already.")
    click.echo(f"bootstrap_servers  {info.bootstrap_servers}")
    click.echo(f"redis_url          {info.redis_url}")
    click.echo(f"data               {stack.data_dir}")
    click.echo(f"logs               {info.logs_dir}")


@command.command()
@_data_dir_option
@_json_option
def down(data_dir: Path, as_json: bool) -> None:
    """Stop both, gracefully. The data stay."""
    from infra.local.stack import LocalStack

    stopped = False
    if data_dir.is_dir():
        with _failing_clearly(), _progress() as progress:
            stack = LocalStack(data_dir, progress=progress)
            before = stack.status()
            stopped = before.kafka_pid is not None or before.redis_pid is not None
            stack.down()
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo("Kafka and Redis are stopped." if stopped else f"Nothing of {data_dir} was running.")


@command.command()
@_data_dir_option
@_json_option
@click.pass_context
def status(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """Whether both run. Exit code 0 if they do, 1 if not."""
    from infra.local.stack import LocalStack

    now = LocalStack(data_dir).status()
    if as_json:
        shown = {
            "running": now.running,
            "bootstrap_servers": now.bootstrap_servers,
            "redis_url": now.redis_url,
            "kafka_pid": now.kafka_pid,
            "redis_pid": now.redis_pid,
        }
        click.echo(json.dumps(shown))
    else:
        for name, pid, address in (
            ("Kafka", now.kafka_pid, now.bootstrap_servers),
            ("Redis", now.redis_pid, now.redis_url),
        ):
            click.echo(f"{name}  " + (f"running, {address}, process {pid}" if pid else "not running"))
    context.exit(0 if now.running else 1)


@contextmanager
def _failing_clearly() -> Iterator[None]:
    from infra.local.errors import StackError
    from infra.topic_admin import TopicError

    try:
        yield
    except (StackError, TopicError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line on standard error that says what is being done, with a bar where the amount is known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        last = ""

        def tell(what: str, done: int, total: int | None) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=total)
            if what != last and not console.is_terminal:
                click.echo(f"{what} ...", err=True)
            last = what

        yield tell
