"""The worker: the one place where the parts of streaming, state and scoring are put together.

One Faust app per process. Faust brings group membership, co-partitioned assignment, the table and its recovery; batch
intake replaces its path for single records (`streams.intake`), and `streams.rescoring` is the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from aiohttp import web
from faust.exceptions import ConsumerNotStarted
from faust.types import TP
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from model_runtime.scorer import Scorer
from model_runtime.signals import Signals
from streams import topics
from streams.background import RATE, Background
from streams.catalog import CatalogReader, Flags
from streams.history import HistoryConfig
from streams.intake import BatchTransport
from streams.interpreter import tune
from streams.latest import TTL_S, LatestStore
from streams.live_topic import LiveTopic
from streams.loading import Loader, history_of
from streams.models import Models
from streams.outbox import Outbox
from streams.preflight import WorkerError, check_topics, quiet_libraries
from streams.rescoring import Rescorer
from streams.serving import Scores
from streams.sink import RedisSink
from streams.slot import Slot
from streams.table import ROCKSDB_OPTIONS, UserStateTable
from streams.telemetry import Telemetry

__all__ = ["Releases", "WorkerError", "WorkerSettings", "run", "run_app"]


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker runs. `worker_id` names its slot: it is the static group membership and the state's folder."""

    bootstrap_servers: str = "localhost:9092"
    redis_url: str | None = "redis://localhost:6379/0"
    data_dir: Path = Path(".lsvcr/workers")
    worker_id: str = "0"
    http_port: int | None = 9464
    store: str = "rocksdb"  #: or `memory`
    max_batch: int = 256
    max_in_flight: int = 20_000
    session_timeout_s: float = 10.0  #: a worker that is killed and not restarted is replaced after this long
    redis_ttl_s: int = TTL_S
    background_rate: float = RATE  #: users a second who get new lists after a swap
    compression: str = "snappy"  #: of everything the worker writes to Kafka
    standbys: int = 0  #: other workers that follow a partition's changelog, to take over without recovering it first
    leave_on_stop: bool = True  #: give the partitions to others at once on a graceful stop


@dataclass(frozen=True)
class Releases:
    """That the worker follows the topic of releases: what makes scorers of them, and from when on they count."""

    loader: Loader
    since_ms: int = 0


class WorkerApp(faust.App):
    """A Faust app that starts and stops the worker's own parts with itself."""

    parts: WorkerParts
    logger = logging.getLogger("faust.worker")  # what Faust says is shown from WARNING on

    async def on_first_start(self) -> None:
        await super().on_first_start()
        await self.parts.start(self)

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        await self.parts.close()


class WorkerParts:
    """Everything in a worker that is not Faust."""

    def __init__(
        self,
        settings: WorkerSettings,
        rescorer: Rescorer,
        models: Models,
        sink: RedisSink | None,
        redis: Redis | None,
        telemetry: Telemetry,
    ) -> None:
        self.settings = settings
        self.rescorer = rescorer
        self.models = models
        self.sink = sink
        self.redis = redis
        self.telemetry = telemetry
        self._runner: web.AppRunner | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, app: WorkerApp) -> None:
        """Start reading the catalog, scoring, writing to Redis, and answering probes.

        SIGUSR2 writes what every task waits for to standard error, for whoever wonders what the worker is doing.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, _tell_tasks)
        self.rescorer.start()
        if self.sink is not None:
            self.sink.start()
        self.models.start()
        if self.rescorer.live is not None:
            self.rescorer.live.start()
        if self.settings.http_port is not None:
            self._runner = web.AppRunner(self.telemetry.web_app(), access_log=None)
            await self._runner.setup()
            try:
                await web.TCPSite(self._runner, "0.0.0.0", self.settings.http_port).start()
            except OSError as error:
                port = self.settings.http_port
                raise WorkerError(f"port {port} for health and metrics: {error}; choose another --http-port") from None
        self._watch = asyncio.create_task(self._watch_over(app), name="watch")

    async def _watch_over(self, app: WorkerApp) -> None:
        """Let scoring begin once the catalog is read, and end the process when it can't go on."""
        while self.telemetry.failure is None:
            if self.ready():
                self.rescorer.ready.set()
            live = self.rescorer.live
            if (error := self.models.failure() or (live.failure() if live is not None else None)) is not None:
                self.telemetry.failed(error)
                break
            await asyncio.sleep(0.1)
        if self.telemetry.failure is not None:
            await app.crash(self.telemetry.failure)

    def ready(self) -> bool:
        """Whether the catalog and the live signals are read."""
        live = self.rescorer.live
        return self.models.ready() and (live is None or live.loaded.is_set())

    async def close(self) -> None:
        """Stop everything that `start` started."""
        if self._watch is not None:
            self._watch.cancel()
        await self.models.close()
        if self.rescorer.live is not None:
            await self.rescorer.live.close()
        if self.sink is not None:
            await self.sink.close()
        if self.redis is not None:
            await self.redis.aclose()
        if self._runner is not None:
            await self._runner.cleanup()


def build(
    settings: WorkerSettings,
    slot: Slot,
    scorer: Scores,
    *,
    config: HistoryConfig,
    flags: Flags | None,
    releases: Releases | None,
    signals: Signals | None = None,
) -> WorkerApp:
    """A worker, ready to run. `flags`: what the catalog keeps up to date; None: no catalog is read. `signals`: what is
    counted of everyone's events, for the models that follow it; None: nothing.

    Raises:
        WorkerError: the broker is away, or topics are missing or don't fit together.
    """
    counts = check_topics(settings.bootstrap_servers)
    partitions = counts[topics.VIDEO_VIEWS]
    rocks = settings.store == "rocksdb"
    app = WorkerApp(
        topics.APP_ID,
        broker=[f"kafka://{server}" for server in settings.bootstrap_servers.split(",")],
        store="rocksdb://?driver=rocksdict" if rocks else "memory://",
        datadir=str(slot.folder),
        topic_partitions=partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        table_standby_replicas=settings.standbys,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=slot.instance_id,
        broker_session_timeout=settings.session_timeout_s,
        # Members hear of a rebalance by their heartbeats, and whoever heard first stands still until the last has.
        broker_heartbeat_interval=min(0.5, settings.session_timeout_s / 4),
        broker_rebalance_timeout=max(30.0, settings.session_timeout_s),
        broker_commit_interval=1.0,
        broker_max_poll_records=5000,
        stream_wait_empty=True,
        stream_recovery_delay=0.0,
        web_enabled=False,
        loghandlers=[],
    )
    table = UserStateTable(
        app,
        name=topics.STATE_TABLE,
        key_type=bytes,
        value_type=bytes,
        partitions=partitions,
        options=dict(ROCKSDB_OPTIONS) if rocks else None,
        beacon=app.tables.beacon,
    )
    app.tables.add(table)
    telemetry = Telemetry()
    redis = sink = None
    if settings.redis_url is not None:
        # No retries in the client: the sink has its own way of making good for a Redis that was away.
        redis = Redis.from_url(
            settings.redis_url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        )
        sink = RedisSink(LatestStore(redis, settings.redis_ttl_s), settings.bootstrap_servers, telemetry)
    outbox = Outbox(
        settings.bootstrap_servers,
        lambda delivery: rescorer.settled(delivery),
        compression=settings.compression,
    )
    sizes = {topic: counts[topic] for topic in topics.CATALOG_TOPICS}
    models = Models(
        scorer,
        config,
        flags,
        read_catalog=lambda flags: CatalogReader(flags, settings.bootstrap_servers, telemetry, sizes),
        telemetry=telemetry,
    )
    live = None
    if signals is not None:
        places = counts[topics.LIVE_SIGNALS]
        live = LiveTopic(signals, settings.bootstrap_servers, places, lambda some: rescorer.send_live(some), telemetry)
    rescorer = Rescorer(
        serving=models.serving,
        config=config,
        table=table,
        changelog=topics.STATE_CHANGELOG,
        partitions=partitions,
        outbox=outbox,
        telemetry=telemetry,
        sink=sink,
        live=live,
        max_batch=settings.max_batch,
        max_in_flight=settings.max_in_flight,
        background=Background(settings.background_rate),
        session_timeout_s=settings.session_timeout_s,
    )
    if releases is not None:
        models.follow(settings.bootstrap_servers, releases.loader, rescorer, releases.since_ms)
    telemetry.lag = lambda: _lag(app, rescorer)
    telemetry.sessions = lambda: {
        model.version: model.sessions.use() for model in models.serving.models() if isinstance(model, Scorer)
    }
    app.transport = BatchTransport(rescorer, app.conf.broker_consumer, app)
    app.parts = WorkerParts(settings, rescorer, models, sink, redis, telemetry)
    telemetry.catalog_ready = app.parts.ready

    @app.agent(app.topic(*topics.EVENT_TOPICS, key_type=bytes, value_type=bytes))
    async def events(stream: Any) -> None:
        """Only here so that Faust subscribes to the event topics and assigns them co-partitioned."""
        async for _ in stream:
            raise AssertionError("batch intake hands over every event")

    return app


def run(settings: WorkerSettings, scorer: Scorer, *, releases: Releases | None = None, loglevel: str = "INFO") -> int:
    """Run a worker until SIGTERM or SIGINT. Returns the process's exit code.

    Without `releases` it serves this scorer for all of its life.
    """
    config = history_of(scorer.bundle)
    return run_app(
        settings,
        scorer,
        config=config,
        flags=scorer.candidates,
        releases=releases,
        signals=scorer.signals,
        loglevel=loglevel,
    )


def run_app(
    settings: WorkerSettings,
    scorer: Scores,
    *,
    config: HistoryConfig,
    flags: Flags | None,
    releases: Releases | None = None,
    signals: Signals | None = None,
    loglevel: str = "INFO",
) -> int:
    """As `run`, with any scorer (the engine benchmark's is a constant)."""
    quiet_libraries()
    tune()
    with Slot(settings.data_dir, topics.APP_ID, settings.worker_id) as slot:
        app = build(settings, slot, scorer, config=config, flags=flags, releases=releases, signals=signals)
        worker = faust.Worker(app, loglevel=loglevel, quiet=True, redirect_stdouts=False, override_logging=False)
        worker.spinner = None  # it would write terminal codes into log files
        code = 0
        try:
            worker.execute_from_commandline()
        except SystemExit as ended:
            code = int(ended.code or 0)
        failure = app.parts.telemetry.failure
        if settings.leave_on_stop and failure is None:
            slot.leave_group(settings.bootstrap_servers)
        return 1 if failure is not None else code


def _tell_tasks() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def _lag(app: WorkerApp, rescorer: Rescorer) -> int | None:
    """Event records of our partitions that are not confirmed; None until the broker told the ends of all of them."""
    try:
        return _known_lag(app.consumer, rescorer)
    except (ConsumerNotStarted, AssertionError):
        return None  # it starts, or its thread has just given up the partition that was asked for


def _known_lag(consumer: Any, rescorer: Rescorer) -> int | None:
    lag = 0
    for tp in consumer.assignment():
        if tp.topic in rescorer.topics:
            end = consumer.highwater(tp)
            if end is None:
                return None
            confirmed = rescorer.ledger.watermarks.get((tp.topic, tp.partition))
            if confirmed is None:
                confirmed = consumer._committed_offset[TP(tp.topic, tp.partition)] or 0
            lag += max(0, end - confirmed)
    return lag
