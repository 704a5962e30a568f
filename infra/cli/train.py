"""`lsvcr train`: from a log to a model that serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline_train.finetuning_config import Progress as Point
    from offline_train.fitting import Fitted, SplitName

_DIR = click.Path(file_okay=False, path_type=Path)
_COUNT = click.IntRange(min=1)
_LINE_SECONDS = 20.0  # between two lines of progress in a file


@click.group()
def command() -> None:
    """Train the recommender."""


@command.command()
@click.option("--log", "log_dir", type=_DIR, required=True, help="A folder as `lsvcr convert` writes it.")
@click.option(
    "--registry",
    type=_DIR,
    envvar="LSVCR_REGISTRY",
    default="./registry",
    show_default=True,
    help="Where the model is published.",
)
@click.option("--text", default="svd", show_default=True, help="svd, or llm:FOLDER as `full` leaves it.")
@click.option("--task", type=click.Choice(["video", "comment", "joint"]), default="joint", show_default=True)
@click.option("--split", type=click.Choice(["temporal", "leave-one-out"]), default="temporal", show_default=True)
@click.option("--epochs", type=click.IntRange(min=0), default=50, show_default=True, help="At most.")
@click.option("--epoch-samples", type=_COUNT, default=10_000, show_default=True, help="Between two validations.")
@click.option("--patience", type=_COUNT, default=5, show_default=True, help="Epochs without a gain until it stops.")
@click.option("--batch", type=_COUNT, default=256, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=_COUNT, default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Where PyTorch trains, such as cpu or cuda.")
@click.option("--channel", default="stable", show_default=True, help="Promoted to the new version.")
@click.option("--no-promote", is_flag=True, help="Publish the new version, but let the channel serve what it serves.")
@click.option("--student/--no-student", default=True, show_default=True, help="Text encoder for what comes later.")
@click.option("--live/--no-live", default=True, show_default=True, help="Train what live signals add to scores.")
@click.option("--test/--no-test", default=True, show_default=True, help="Rank the test part, baselines beside.")
@click.option("--columns", type=_DIR, help="Keep events there, as memory-mapped files: for a log larger than memory.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def fit(
    log_dir: Path,
    registry: Path,
    text: str,
    task: str,
    split: SplitName,
    epochs: int,
    epoch_samples: int,
    patience: int,
    batch: int,
    learning_rate: float,
    seed: int,
    threads: int,
    device: str,
    channel: str,
    no_promote: bool,
    student: bool,
    live: bool,
    test: bool,
    columns: Path | None,
    as_json: bool,
) -> None:
    """Train on a log's training part, export a bundle, measure it on the test part, publish and promote it."""
    from model_runtime.manifest import BundleError
    from model_runtime.registry import RegistryError
    from offline_train.finetuning_config import FinetuneConfig
    from offline_train.fitting import fit as run
    from offline_train.log import LogError

    try:
        config = FinetuneConfig(
            task=task,
            epochs=epochs,
            epoch_samples=epoch_samples,
            patience=patience,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
            threads=threads,
            device=device,
        )
        with _bar(config.epochs) as (stage, progress, _):
            fitted = run(
                log_dir,
                registry,
                config=config,
                text=text,
                split_name=split,
                channel=None if no_promote else channel,
                test=test,
                student=student,
                live=live,
                columns=columns,
                stage=stage,
                progress=progress,
            )
    except (LogError, BundleError, RegistryError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    _print(fitted, as_json)


@command.command()
@click.option(
    "--config", "file", type=click.Path(dir_okay=False, path_type=Path), required=True, help="As infra/refresh.yaml."
)
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a value: train.epochs=10.")
@click.option("--every", metavar="TIME", help="Again and again: 6h, 30m. Without it: once.")
@click.option("--bootstrap-servers", envvar="LSVCR_BOOTSTRAP_SERVERS", default="localhost:9092", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print how each refresh ended as one JSON object a line.")
def refresh(file: Path, overrides: tuple[str, ...], every: str | None, bootstrap_servers: str, as_json: bool) -> None:
    """Train on the archive from the serving model, and let the result serve if it is no worse.

    Nothing is published otherwise, and the report says why. A refresh that was killed goes on when it is started again.
    """
    from infra.refreshing import again_and_again, once, seconds_of
    from offline_train.refresh_config import RefreshError, load_config

    try:
        config = load_config(file, overrides)
        period = None if every is None else seconds_of(every)
    except RefreshError as error:
        raise click.UsageError(str(error)) from None

    def run() -> None:
        with _bar(config.finetuning().epochs) as (stage, progress, _):
            done = once(config, bootstrap_servers, stage, progress)
        if as_json:
            import json
            from dataclasses import asdict

            click.echo(json.dumps(asdict(done), default=str))
        else:
            click.echo(f"{done.outcome:<11} {done.version or ''}\nwhy         {done.why}")
            for name in ("report", "curves"):
                if getattr(done, name) is not None:
                    click.echo(f"{name:<11} {getattr(done, name)}")

    if period is not None:
        again_and_again(run, period)
        return
    try:
        run()
    except RefreshError as error:
        raise click.ClickException(str(error)) from None


@command.command()
@click.option("--config", "path", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A YAML file.")
@click.option("--set", "values", multiple=True, metavar="KEY=VALUE", help="Override a value, such as align.batch=64.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def full(path: Path, values: tuple[str, ...], as_json: bool) -> None:
    """Both stages: align the SR with a language model, embed all texts, fine-tune, measure and publish.

    Started again after a kill, it goes on where it was.
    """
    from model_runtime.manifest import BundleError
    from model_runtime.registry import RegistryError
    from offline_train.full import read_config, train_full
    from offline_train.log import LogError

    overrides = {}
    for value in values:
        key, equals, content = value.partition("=")
        if not equals:
            raise click.UsageError(f"--set {value}: expected KEY=VALUE")
        overrides[key] = content
    try:
        config = read_config(path, overrides)
        with _bar(config.finetune.epochs) as (stage, progress, advance):
            done = train_full(config, stage=stage, advance=advance, progress=progress)
    except (LogError, BundleError, RegistryError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if done is None:
        return
    _print(done.fitted, as_json)
    if not as_json:
        click.echo(f"texts       {done.texts}\nboth stages {done.report}")
        if done.curves:
            click.echo(f"stage 1     {done.curves}")


@contextmanager
def _bar(
    epochs: int,
) -> Iterator[tuple[Callable[[str], None], Callable[[Point], None], Callable[[int, int, str], None]]]:
    """A progress bar on standard error: what is being done; in training epoch, loss, rate and time left at most."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left, at most:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        current = bar.add_task("starting", total=None)
        told = [0.0]

        def stage(what: str) -> None:
            nonlocal current
            if bar.disable:
                click.echo(what, err=True)
            bar.update(current, total=1, completed=1)
            current = bar.add_task(what, total=None)

        def progress(point: Point) -> None:
            done = (point.epoch - 1) * point.batches + point.batch
            what = (
                f"training, epoch {point.epoch}, loss {point.loss:.3f}, best NDCG@5 {point.score:.4f}, "
                f"{point.samples_per_second:,.0f} samples/s"
            )
            if bar.disable and point.batch == point.batches:
                click.echo(what, err=True)  # a file of lines: one per epoch
            bar.update(current, description=what, total=epochs * point.batches, completed=done)

        def advance(done: int, total: int, how: str) -> None:
            if bar.disable and (done == total or time.monotonic() - told[0] > _LINE_SECONDS):
                told[0] = time.monotonic()
                click.echo(f"{done:,} of {total:,}, {how}", err=True)
            bar.update(current, description=how, total=total, completed=done)

        yield stage, progress, advance
        bar.update(current, total=1, completed=1)


def _print(fitted: Fitted, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        import json

        click.echo(json.dumps(asdict(fitted), default=str))
        return
    from rich.console import Console
    from rich.table import Table

    test: dict[str, Any] = fitted.metrics.get("test", {})
    if test:
        table = Table(title="NDCG@10 on the test part", title_justify="left")
        table.add_column("model", no_wrap=True)
        for column in test:
            table.add_column(column, justify="right")
        for model in dict.fromkeys(name for row in test.values() for name in row):
            table.add_row(model, *(f"{row[model]:.4f}" if model in row else "-" for row in test.values()))
        Console().print(table)
    click.echo(f"version     {fitted.version}" + (f", served by channel {fitted.channel}" if fitted.channel else ""))
    click.echo(f"trained     {fitted.seconds:,.0f} s, epoch {fitted.best_epoch} was best")
    for name in ("bundle", "checkpoint", "report", "curves"):
        click.echo(f"{name:<11} {getattr(fitted, name)}")
