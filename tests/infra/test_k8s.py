"""The Kubernetes examples call commands that exist, with flags and variables that they have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import infra
from infra.cli import main

FILES = sorted((Path(infra.__file__).parent / "k8s").glob("*.yaml"))


def _containers(of: Any) -> Iterator[dict[str, Any]]:
    """Every container of a document, wherever it lies."""
    if isinstance(of, dict):
        yield from of.get("containers", [])
        for part in of.values():
            yield from _containers(part)
    elif isinstance(of, list):
        for part in of:
            yield from _containers(part)


def _parsed(arguments: list[str]) -> click.Context:
    """The innermost command's context, its arguments parsed as they would be, and nothing run."""
    command: click.Command = main
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(context, arguments)
        assert command is not None, name
        context = click.Context(command, info_name=name, parent=context)
    return command.make_context(context.info_name, arguments, parent=context.parent)


@pytest.mark.train  # the commands of training import it
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_fit_the_command_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = list(yaml.safe_load_all(file.read_text()))
    containers = [container for document in documents for container in _containers(document)]
    assert containers
    for container in containers:
        program, *arguments = container["command"]
        assert program == "lsvcr"
        for variable in container["env"]:
            monkeypatch.setenv(variable["name"], variable.get("value", "a-pod-0"))
        context = _parsed(arguments)
        known = {option.envvar for option in context.command.params}
        assert {variable["name"] for variable in container["env"]} <= known
        for option in context.command.params:
            if (
                value := next((v.get("value") for v in container["env"] if v["name"] == option.envvar), None)
            ) is not None:
                assert option.name is not None
                assert str(context.params[option.name]) == value


def test_a_worker_is_judged_only_once_it_was_ready() -> None:
    (worker,) = (file for file in FILES if file.stem == "worker")
    stateful = next(
        document for document in yaml.safe_load_all(worker.read_text()) if document["kind"] == "StatefulSet"
    )
    (container,) = _containers(stateful)
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (shown,) = (option.default for option in _parsed(["worker"]).command.params if option.name == "http_port")
    assert ports == {"http": shown}
