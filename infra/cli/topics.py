"""`lsvcr topics`: the system's topics on a Kafka cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click


def _bootstrap_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--bootstrap-servers",
        envvar="LSVCR_BOOTSTRAP_SERVERS",
        default="localhost:9092",
        show_default=True,
        show_envvar=True,
        help="Kafka's address: host:port, several with commas.",
    )(function)


@click.group()
def command() -> None:
    """Create the system's topics, and show how they are."""


@command.command()
@_bootstrap_option
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    envvar="LSVCR_PARTITIONS",
    default=8,
    show_default=True,
    help="Partitions of the topics that are partitioned by user. It can't be changed later without a replay.",
)
@click.option("--replication-factor", type=click.IntRange(1, 32), default=1, show_default=True, help="Copies of each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def create(bootstrap_servers: str, partitions: int, replication_factor: int, as_json: bool) -> None:
    """Create the topics that are missing; check the others. Changes nothing that exists."""
    from infra.topic_admin import TopicError, create_topics
    from streams.topics import TOPICS

    try:
        created = create_topics(bootstrap_servers, partitions, replication_factor)
    except TopicError as error:
        raise click.ClickException(str(error)) from error
    existed = [spec.name for spec in TOPICS if spec.name not in created]
    if as_json:
        click.echo(json.dumps({"created": created, "existed": existed}))
    else:
        click.echo(f"created  {', '.join(created) or 'none'}")
        click.echo(f"existed  {', '.join(existed) or 'none'}")


@command.command()
@_bootstrap_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
def describe(bootstrap_servers: str, as_json: bool) -> None:
    """Show the topics as they are. Exit code 1 if one is missing."""
    from infra.topic_admin import TopicError, describe_topics

    try:
        states = describe_topics(bootstrap_servers)
    except TopicError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"topics": [{**asdict(state), "exists": state.exists} for state in states]}))
    else:
        from rich.console import Console
        from rich.table import Column, Table

        table = Table(Column("topic", no_wrap=True), "partitions", "copies", "cleanup", "settings of its own")
        for state in states:
            if state.exists:
                others = (f"{key}={value}" for key, value in state.config.items() if key != "cleanup.policy")
                cells = (str(state.partitions), str(state.replication_factor), state.cleanup_policy, "\n".join(others))
            else:
                cells = ("missing", "", "", "")
            table.add_row(state.name, *cells)
        Console().print(table)
    missing = [state.name for state in states if not state.exists]
    if missing:
        raise click.ClickException(f"missing: {', '.join(missing)}; create them with `lsvcr topics create`")
