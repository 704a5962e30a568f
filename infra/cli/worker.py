"""`lsvcr worker`: run one worker."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import click


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
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of bundles.",
)
@click.option("--channel", default="stable", show_default=True, help="The registry's channel to serve.")
@click.option(
    "--bundle",
    envvar="LSVCR_BUNDLE",
    type=click.Path(file_okay=False, path_type=Path),
    help="Serve this bundle folder instead of the registry's channel.",
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
@click.option("--max-batch", default=64, show_default=True, type=click.IntRange(1), help="Users scored at once.")
@click.option(
    "--session-timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(6),
    help="Seconds after which a worker that vanished is replaced by the others.",
)
@click.option(
    "--compression",
    default="lz4",
    show_default=True,
    type=click.Choice(["lz4", "zstd", "snappy", "gzip", "none"]),
    help="Of what the worker writes. Clients that read gzip only (kafkajs without its plug-ins) need gzip or none.",
)
@click.option("--stay/--leave", default=False, help="On a graceful stop keep the partitions for the restart (or not).")
@click.option("--log-level", default="INFO", show_default=True, type=click.Choice(["DEBUG", "INFO", "WARNING"]))
def command(
    bootstrap_servers: str,
    redis_url: str,
    registry: Path,
    channel: str,
    bundle: Path | None,
    data_dir: Path,
    worker_id: str,
    http_port: int,
    store: str,
    top_videos: int,
    top_comments: int,
    max_batch: int,
    session_timeout: float,
    compression: str,
    stay: bool,
    log_level: str,
) -> None:
    """Run one worker: events in, state kept, recommendations out.

    Start as many as there are cores, each with its own --worker-id, up to the number of partitions. Stop with SIGTERM
    or Ctrl-C. It may also be killed: nothing is lost.
    """
    # Before numpy is imported: the waiting threads of its BLAS took three times the CPU of the products themselves.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from model_runtime.bundle import Bundle
    from model_runtime.manifest import BundleError
    from model_runtime.registry import Registry, RegistryError
    from model_runtime.scorer import Scorer
    from streams.slot import SlotTakenError
    from streams.worker import WorkerError, WorkerSettings, run

    if http_port:
        _check_port(http_port)
    try:
        if bundle is not None:
            opened = Bundle.open(bundle)
        else:
            shelf = Registry(registry)
            opened = shelf.open(shelf.channel(channel))
        scorer = Scorer(opened, top_videos=top_videos, top_comments=top_comments)
        checked = scorer.check_sample()
    except (BundleError, RegistryError) as error:
        raise click.ClickException(str(error)) from None
    log = logging.getLogger("lsvcr.worker")
    log.info("serving bundle %s; %d sample users rank as in training", opened.version, checked)
    settings = WorkerSettings(
        bootstrap_servers=bootstrap_servers,
        redis_url=None if redis_url == "none" else redis_url,
        data_dir=data_dir / "workers",
        worker_id=worker_id,
        http_port=http_port or None,
        store=store,
        max_batch=max_batch,
        session_timeout_s=session_timeout,
        compression=compression,
        leave_on_stop=not stay,
    )
    try:
        code = run(settings, scorer, loglevel=log_level)
    except (WorkerError, SlotTakenError) as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(code)


def _check_port(port: int) -> None:
    """Look before Faust runs, which would wrap the error in tracebacks of its own."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            why = f"port {port}, for health and metrics, can't be had ({error.strerror})"
            raise click.ClickException(f"{why}: does another worker run? give this one another --http-port") from None
