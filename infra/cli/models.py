"""`lsvcr models`: which versions there are, which one serves, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from model_runtime.registry import Registry
    from streams.releases import Release


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else."),
        click.option(
            "--bootstrap-servers", envvar="LSVCR_BOOTSTRAP_SERVERS", default="localhost:9092", show_default=True
        ),
        click.option(
            "--registry",
            "root",
            envvar="LSVCR_REGISTRY",
            default="registry",
            show_default=True,
            help="Folder of bundles, or a prefix of an object store.",
        ),
    ):
        function = option(function)
    return function


@contextmanager
def _registry(root: str) -> Iterator[Registry]:
    from model_runtime.registry import Registry
    from streams.releases import ReleaseError
    from streams.whole_topic import TopicReadError

    try:
        yield Registry(root)
    except (ValueError, ReleaseError, TopicReadError) as error:  # those of bundles, registries and logs are the first
        raise click.ClickException(str(error)) from None


@click.group()
def command() -> None:
    """Versions of the model: list them, let one serve, go back, try one on a share of the users, compare two.

    A release is noted in the registry and announced on the topic model-releases; running workers take it up within
    seconds, between two batches. One that can't serve is refused by every worker, and what served before goes on.
    """


@command.command("list")
@_options
def list_models(root: str, bootstrap_servers: str, as_json: bool) -> None:
    """The published versions, newest first, and the channels that serve them."""
    with _registry(root) as registry:
        pointers = [registry.pointer(name) for name in registry.channels()]
        models = [_about(registry, version) for version in reversed(registry.versions())]
    for model in models:
        model["channels"] = [pointer.channel for pointer in pointers if pointer.version == model["version"]]
    if as_json:
        click.echo(json.dumps({"registry": root, "models": models}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "made", "videos", "comments", "serves")
    for model in models:
        made = model.get("created", "")
        sizes = [f"{model[name]:,}" if name in model else "-" for name in ("videos", "comments")]
        table.add_row(model["version"], made, *sizes, ", ".join(model["channels"]) or model.get("error", ""))
    Console().print(table)


@command.command()
@click.argument("model")
@_options
def show(model: str, root: str, bootstrap_servers: str, as_json: bool) -> None:
    """What a version says of itself. MODEL is a version, or a channel such as stable."""
    import msgspec

    with _registry(root) as registry:
        manifest = registry.manifest(_version(registry, model))
        about = {"uri": registry.uri(manifest.version), **msgspec.to_builtins(manifest)}
    click.echo(json.dumps(about, indent=None if as_json else 2))


@command.command()
@click.argument("version")
@click.option("--channel", default="stable", show_default=True)
@_options
def promote(version: str, channel: str, root: str, bootstrap_servers: str, as_json: bool) -> None:
    """Let VERSION serve: verify it, note it in the registry, and announce it to the workers."""
    from streams.releases import promote

    with _registry(root) as registry:
        _say(promote(registry, bootstrap_servers, channel, version), as_json)


@command.command()
@click.option("--channel", default="stable", show_default=True)
@_options
def rollback(channel: str, root: str, bootstrap_servers: str, as_json: bool) -> None:
    """Let the version before serve again. Given twice, it goes forward again."""
    from streams.releases import promote

    with _registry(root) as registry:
        pointer = registry.pointer(channel)
        if pointer.previous is None:
            raise click.ClickException(
                f"{channel} has served {pointer.version} only: name a version with `lsvcr models promote VERSION`"
            )
        _say(promote(registry, bootstrap_servers, channel, pointer.previous, pointer.percent), as_json)


@command.command()
@click.argument("version", required=False)
@click.option("--percent", type=click.FloatRange(0, 100), help="The share of users it serves.")
@click.option("--off", is_flag=True, help="End the canary.")
@_options
def canary(
    version: str | None, percent: float | None, off: bool, root: str, bootstrap_servers: str, as_json: bool
) -> None:
    """Let VERSION serve a share of the users, always the same ones; without VERSION, change the canary's share.

    Which list was whose is told by the lists' model_version. `lsvcr models promote VERSION` makes it serve everybody.
    """
    from streams.releases import CANARY, end_canary, promote

    if off == (percent is not None):
        raise click.UsageError("give --percent P, or --off to end the canary")
    with _registry(root) as registry:
        if percent is None:
            end_canary(registry, bootstrap_servers)
            click.echo(json.dumps({"channel": CANARY, "version": None}) if as_json else "the canary has ended")
            return
        version = version or registry.channel(CANARY)
        _say(promote(registry, bootstrap_servers, CANARY, version, percent), as_json)


@command.command()
@click.argument("one")
@click.argument("other")
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 100), help="How much of the lists' heads.")
@click.option("--users", default=500, show_default=True, type=click.IntRange(1), help="At most so many users.")
@click.option(
    "--log",
    "log_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Users of this log (or archive), and metrics on its test part; default: users whom the workers know.",
)
@_options
def diff(
    one: str, other: str, k: int, users: int, log_dir: Path | None, root: str, bootstrap_servers: str, as_json: bool
) -> None:
    """How the lists of two models differ on real users. ONE and OTHER are versions, or channels."""
    from infra.model_diff import compare, metrics

    with _registry(root) as registry:
        bundles = [registry.open(_version(registry, name)) for name in (one, other)]
        found = compare(*bundles, bootstrap_servers=bootstrap_servers, log_dir=log_dir, users=users, k=k)
        if log_dir is not None:
            found["metrics"] = metrics(bundles, log_dir)
    if as_json:
        click.echo(json.dumps(found))
        return
    for kind in ("videos", "comments"):
        about = found[kind]
        if about is None:
            click.echo(f"{kind}: no user has lists of both")
            continue
        tau = "-" if about["rank_correlation"] is None else f"{about['rank_correlation']:.3f}"
        click.echo(
            f"{kind}: of the first {about['k']}, {about['overlap']:.1%} are in both lists; the first is the same for "
            f"{about['same_first']:.1%} of {about['users']} users; rank correlation {tau}"
        )
    for row in found.get("metrics", []):
        click.echo(
            f"{row['task']} {row['protocol']}: NDCG@10 " + "  ".join(f"{n} {v:.4f}" for n, v in row["ndcg@10"].items())
        )


def _version(registry: Registry, name: str) -> str:
    return registry.channel(name) if name in registry.channels() else name


def _about(registry: Registry, version: str) -> dict[str, Any]:
    from model_runtime.manifest import BundleError

    try:
        manifest = registry.manifest(version)
    except BundleError as error:
        return {"version": version, "error": str(error)}
    created = datetime.fromtimestamp(manifest.created_ms / 1000, UTC)
    return {
        "version": version,
        "created_ms": manifest.created_ms,
        "created": f"{created:%Y-%m-%d %H:%M} UTC",
        "videos": manifest.counts.videos,
        "comments": manifest.counts.comments,
        "metrics": manifest.metrics,
    }


def _say(release: Release, as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(release).decode())
        return
    share = f" to {release.percent:g} % of the users" if release.percent is not None else ""
    click.echo(f"{release.channel} serves {release.version}{share}; running workers take it up within seconds")
