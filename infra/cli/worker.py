"""`lsvcr worker`: run one worker."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from streams.releases import Release

log = logging.getLogger("lsvcr.worker")


@click.command("worker")
@click.option("--bootstrap-servers", envvar="LSVCR_BOOTSTRAP_SERVERS", default="localhost:9092", show_default=True)
@click.option(
    "--redis-url",
    envvar="LSVCR_REDIS_URL",
    default="redis://localhost:6379/0",
    show_default=True,
    help="Where the latest lists go; `none`: to Kafka only.",
)
@click.option(
    "--registry",
    envvar="LSVCR_REGISTRY",
    default="registry",
    show_default=True,
    help="Folder of bundles, or a prefix of an object store such as s3://bucket/registry.",
)
@click.option(
    "--bundle",
    envvar="LSVCR_BUNDLE",
    type=click.Path(file_okay=False, path_type=Path),
    help="Serve this bundle folder, whatever is announced.",
)
@click.option(
    "--data-dir",
    envvar="LSVCR_DATA_DIR",
    default=".lsvcr",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the local copy of the state; it may be deleted, and is then restored from the changelog.",
)
@click.option("--worker-id", envvar="LSVCR_WORKER_ID", default="0", show_default=True, help="The slot of this worker.")
@click.option("--http-port", default=9464, show_default=True, help="Health and metrics; 0: none.")
@click.option("--store", type=click.Choice(["rocksdb", "memory"]), default="rocksdb", show_default=True)
@click.option("--top-videos", default=100, show_default=True, type=click.IntRange(1))
@click.option("--top-comments", default=50, show_default=True, type=click.IntRange(1))
@click.option(
    "--background-rate",
    default=200.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Users a second who get new lists after another model took over, behind live traffic.",
)
@click.option(
    "--live/--no-live",
    envvar="LSVCR_LIVE",
    default=True,
    show_default=True,
    help="Add what is alive right now to scores, if the bundle has weights for it; or score by the model alone.",
)
@click.option("--explain/--no-explain", default=False, help="Write into lists what each score is made of, and why.")
@click.option(
    "--session-memory",
    envvar="LSVCR_SESSION_MEMORY",
    default=512,
    show_default=True,
    type=click.IntRange(0),
    help="MiB, for each loaded model, to keep what was computed for users, so that a next event costs only what it "
    "changes; 512 are about 4 500 users with full histories. Too few show as lsvcr_session_evictions_total.",
)
@click.option("--max-batch", default=256, show_default=True, type=click.IntRange(1), help="Users scored at once.")
@click.option(
    "--session-timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(6),
    help="Seconds after which a worker that vanished is replaced by the others.",
)
@click.option(
    "--compression",
    default="snappy",
    show_default=True,
    type=click.Choice(["lz4", "zstd", "snappy", "gzip", "none"]),
    help="Of what the worker writes. Clients that read gzip only (kafkajs without its plug-ins) need gzip or none. lz4 "
    "takes four times snappy's time here, and saves a sixth.",
)
@click.option(
    "--standbys",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="How many other workers keep a copy of each partition's state, and take over without reading it first.",
)
@click.option("--stay/--leave", default=False, help="On a graceful stop keep the partitions for the restart (or not).")
@click.option("--log-level", default="INFO", show_default=True, type=click.Choice(["DEBUG", "INFO", "WARNING"]))
def command(
    bootstrap_servers: str,
    redis_url: str,
    registry: str,
    bundle: Path | None,
    data_dir: Path,
    worker_id: str,
    http_port: int,
    store: str,
    top_videos: int,
    top_comments: int,
    background_rate: float,
    live: bool,
    explain: bool,
    session_memory: int,
    max_batch: int,
    session_timeout: float,
    compression: str,
    standbys: int,
    stay: bool,
    log_level: str,
) -> None:
    """Run one worker: events in, state kept, recommendations out.

    It serves what is announced on the topic model-releases (`lsvcr models promote`), and takes up a new release while
    it runs; before the first announcement, the registry's channel `stable`.

    Start as many as there are cores, each with its own --worker-id, up to the number of partitions. Stop with SIGTERM
    or Ctrl-C. It may also be killed: nothing is lost.
    """
    # Before numpy is imported: the waiting threads of its BLAS took three times the CPU of the products themselves.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from model_runtime.bundle import Bundle
    from model_runtime.fetching import FetchError
    from model_runtime.manifest import BundleError
    from model_runtime.registry import RegistryError
    from model_runtime.signals import Signals
    from streams.loading import Loader, RefusedError, first_that_serves
    from streams.preflight import WorkerError, check_topics
    from streams.releases import ReleaseError
    from streams.slot import SlotTakenError
    from streams.worker import Releases, WorkerSettings, run

    if http_port:
        _check_port(http_port)
    loader = Loader(
        data_dir / f"bundles-{worker_id}",
        top_videos,
        top_comments,
        Signals() if live else None,
        explain,
        session_bytes=session_memory << 20,
    )
    releases = None
    try:
        check_topics(bootstrap_servers)
        if bundle is not None:
            scorer = loader.prepare(Bundle.open(bundle))
        else:
            announced = _to_serve(registry, bootstrap_servers)
            scorer, _ = first_that_serves(loader, announced)
            releases = Releases(loader, since_ms=announced[0].created_ms)
    except (BundleError, FetchError, RefusedError, RegistryError, ReleaseError, WorkerError) as error:
        raise click.ClickException(str(error)) from None
    sample = len(scorer.bundle.sample)
    log.info("serving bundle %s; %d sample users rank as in training", scorer.version, sample)
    settings = WorkerSettings(
        bootstrap_servers=bootstrap_servers,
        redis_url=None if redis_url == "none" else redis_url,
        data_dir=data_dir / "workers",
        worker_id=worker_id,
        http_port=http_port or None,
        store=store,
        background_rate=background_rate,
        max_batch=max_batch,
        session_timeout_s=session_timeout,
        compression=compression,
        standbys=standbys,
        leave_on_stop=not stay,
    )
    try:
        code = run(settings, scorer, releases=releases, loglevel=log_level)
    except (WorkerError, SlotTakenError) as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(code)


def _to_serve(registry: str, bootstrap_servers: str) -> list[Release]:
    """What a worker that starts should serve, best first: what follows stands in for what can't be served."""
    from model_runtime.registry import Registry, RegistryError
    from streams.releases import STABLE, of_registry, read_releases

    announced = read_releases(bootstrap_servers).get(STABLE)
    try:
        of_channel = of_registry(Registry(registry), STABLE)
    except RegistryError as error:
        if announced is None:
            raise
        log.warning("only what is announced can be served: %s", error)
        of_channel = []
    # Whoever promotes writes the registry first and announces then; `lsvcr train fit` writes the registry alone.
    newest = max([*of_channel[:1], *([announced] if announced else [])], key=lambda release: release.created_ms)
    others = [release for release in (*of_channel, announced) if release is not None]
    return [newest, *(release for release in others if release.version != newest.version)]


def _check_port(port: int) -> None:
    """Look before Faust runs, which would wrap the error in tracebacks of its own."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            why = f"port {port}, for health and metrics, can't be had ({error.strerror})"
            raise click.ClickException(f"{why}: does another worker run? give this one another --http-port") from None
