"""The `lsvcr` command. Each subcommand lives in a module of its own, imported only when it is called,
so that `lsvcr feed` does not pay for importing Faust, nor `lsvcr stack` for PyTorch."""

from __future__ import annotations

import importlib

import click

# name on the command line -> module below infra.cli that defines `command`
COMMANDS = {
    "stack": "stack",
    "topics": "topics",
    "convert": "convert",
    "simulate": "simulate",
    "publish": "publish",
    "worker": "worker",
    "feed": "feed",
    "train": "train",
    "evaluate": "evaluate",
    "models": "models",
    "archive": "archive",
    "demo": "demo",
}


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"infra.cli.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LSVCR"})
@click.version_option(package_name="lsvcr")
def main() -> None:
    """Real-time video and comment recommendations: Kafka events in, re-scored lists out."""
