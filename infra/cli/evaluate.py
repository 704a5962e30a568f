"""`lsvcr evaluate`: a bundle beside every baseline, and the document of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli.evaluate_reading import reading
from infra.cli.rankings import bar, json_option, limit_option, protocol_option, show

if TYPE_CHECKING:
    from model_runtime.bundle import Bundle

_DIR = click.Path(file_okay=False, path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--log", "log_dir", type=_DIR, help="The log to evaluate on: a folder as `lsvcr convert` writes it.")
@click.option("--bundle", "bundle_dir", type=_DIR, help="The bundle to evaluate.")
@click.option(
    "--registry",
    type=_DIR,
    envvar="LSVCR_REGISTRY",
    default="./registry",
    show_default=True,
    help="Where to take the bundle from unless --bundle is given.",
)
@click.option("--channel", default="stable", show_default=True, help="The registry's channel.")
@click.option("--baselines-only", is_flag=True, help="No bundle: the baselines alone.")
@click.option(
    "--cold", is_flag=True, help="Instead: what came after training, by the model's own vectors and by the student's."
)
@protocol_option
@click.option(
    "--split", "split_name", type=click.Choice(("temporal", "leave-one-out")), default="temporal", show_default=True
)
@limit_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random baseline and of `sampled`.")
@click.option("--live/--no-live", default=True, show_default=True, help="Also the bundle with its live signals.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    log_dir: Path | None,
    bundle_dir: Path | None,
    registry: Path,
    channel: str,
    baselines_only: bool,
    cold: bool,
    protocols: tuple[str, ...],
    split_name: str,
    limit: int | None,
    seed: int,
    live: bool,
    as_json: bool,
) -> None:
    """Rank the test part of a log with a bundle and with every baseline; `results` makes the document of results."""
    if context.invoked_subcommand:
        return
    if log_dir is None:
        raise click.UsageError("give the log to evaluate on with --log", context)
    if cold and (baselines_only or split_name != "temporal"):
        raise click.UsageError("--cold needs a bundle, and a split in time", context)

    from model_runtime.manifest import BundleError
    from offline_train.baselines import Scorer, baselines
    from offline_train.cold import cold_ranking, kept
    from offline_train.corpus import Corpus, leave_one_out, temporal_split
    from offline_train.deployed import BundleScorer, check_horizon, history_config
    from offline_train.evaluation import evaluate, training_events
    from offline_train.live_scorer import live_scorers
    from offline_train.log import Log, LogError
    from streams.history import DEFAULT

    try:
        bundle = None if baselines_only else _bundle(bundle_dir, registry, channel)
        config = history_config(bundle) if bundle else DEFAULT
        log = Log.read(log_dir, config)
        corpus = Corpus.build(log, config)
        split = temporal_split(corpus) if split_name == "temporal" else leave_one_out(corpus)
        if bundle and (warning := check_horizon(bundle, split)):
            click.secho(f"warning: {warning}", err=True, fg="yellow")
        if bundle and cold:
            with bar("ranking") as advance:
                results = cold_ranking(log, corpus, split, bundle, protocols=protocols, limit=limit, advance=advance)
            show(results, as_json)
            for what, (share, error) in kept(results).items():
                click.echo(f"{what}: the student keeps {share:.1%} (± {error:.1%}) of NDCG@10", err=as_json)
            return
        training = training_events(log, corpus, split)
        scorers: list[Scorer] = []
        for task in ("video", "comment"):
            scorers += baselines(task, log, corpus, training, seed)
            if bundle:
                sr = BundleScorer(bundle, log, corpus, task)
                scorers += [sr, *live_scorers([sr], bundle.live if live else None, log, corpus, training)]
        with bar("ranking") as advance:
            results = evaluate(
                log, corpus, split, scorers, protocols=protocols, seed=seed, limit=limit, advance=advance
            )
    except (LogError, BundleError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    show(results, as_json)


command.add_command(reading)


@command.command()
@click.option(
    "--data",
    "shared",
    type=_DIR,
    envvar="LSVCR_SHARED_DATA",
    default="../shared/data",
    show_default=True,
    help="The folder that holds rotten-tomatoes/, hetrec2011-tags/ and amazon-beauty/ (or set LSVCR_SHARED_DATA).",
)
@click.option("--out", type=_DIR, default="docs", show_default=True, help="Where results.md and results.json go.")
@click.option(
    "--work",
    type=_DIR,
    envvar="LSVCR_DATA_DIR",
    default="./.lsvcr",
    show_default=True,
    help="Where converted logs and trained bundles are kept for the next time.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings per model.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of a training. Sums in another order are other weights: figures hold for one number.",
)
@click.option(
    "--task",
    "tasks",
    type=click.Choice(("joint", "video", "comment")),
    multiple=True,
    default=("joint",),
    show_default=True,
    help="Models to train: the joint one, or one of its own per task; may be repeated.",
)
@click.option(
    "--only",
    type=click.Choice(("rotten-tomatoes", "hetrec", "simulated", "amazon-beauty")),
    multiple=True,
    help="Only this data set; may be repeated.",
)
@click.option(
    "--recbole-seeds",
    type=click.IntRange(min=0),
    help="Trainings of RecBole's SASRec, which is installed once into an environment of its own in the work folder and "
    "takes longer than all else; 0: none.  [default: as many as --seeds]",
)
@click.option(
    "--stage1-seeds",
    type=click.IntRange(min=0),
    help="Runs of stage 1, for the comparison of texts; each trains a language model for some minutes to an hour; 0: "
    "leave it out.  [default: as many as --seeds]",
)
@click.option(
    "--ablations/--no-ablations",
    default=True,
    help="In the comparison of texts, leave out parts of stage 1 and of the model as well: three more runs of stage 1 "
    "per data set.",
)
@click.option(
    "--texts-only",
    is_flag=True,
    help="Make the comparison of texts anew, and leave all else as it is written in --out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows of results.json as well.")
def results(
    shared: Path,
    out: Path,
    work: Path,
    seeds: int,
    threads: int,
    tasks: tuple[str, ...],
    only: tuple[str, ...],
    recbole_seeds: int | None,
    stage1_seeds: int | None,
    ablations: bool,
    texts_only: bool,
    as_json: bool,
) -> None:
    """Convert, train with several seeds, evaluate, and write results.md, results.json and the pictures.

    What was converted or trained before, from the same data by the same code, is taken from the work folder.
    """
    from offline_train.finetuning_config import FinetuneConfig
    from offline_train.log import LogError
    from offline_train.results import make_results
    from offline_train.sources.writer import SourceError
    from offline_train.study.recbole import RecBoleError

    with bar("results") as advance:
        try:
            config = FinetuneConfig(threads=threads)
            document = make_results(
                shared,
                out,
                work / "results",
                seeds=seeds,
                only=only,
                tasks=tasks,
                config=config,
                recbole_seeds=recbole_seeds,
                stage1_seeds=stage1_seeds,
                ablations=ablations,
                texts_only=texts_only,
                advance=advance,
            )
        except (SourceError, LogError, RecBoleError, ValueError, OSError) as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        click.echo((out / "results.json").read_text())
    click.echo(f"wrote {document}, {out / 'results.json'} and the pictures in {out / 'results'}", err=as_json)


def _bundle(directory: Path | None, registry: Path, channel: str) -> Bundle:
    from model_runtime.bundle import Bundle
    from model_runtime.registry import Registry, RegistryError

    if directory:
        return Bundle.open(directory)
    try:
        store = Registry(registry)
        return store.open(store.channel(channel))
    except RegistryError as error:
        raise click.ClickException(f"{error} (or give --bundle, or --baselines-only)") from None
