"""Kafka and Redis on this machine, without Docker, root, Java or Maven.

    with LocalStack("data", kafka_port=0, redis_port=0) as info:
        print(info.bootstrap_servers, info.redis_url)

`lsvcr stack`, the tests, the demo and the benchmarks all use this class.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from infra.local import broker, ports, redis_server
from infra.local.broker import Broker
from infra.local.errors import StackError
from infra.local.kafka_jars import Progress, fetch_jars
from infra.local.programs import find_java, find_redis_server
from infra.local.redis_server import RedisServer
from streams.topics import DEFAULT_PARTITIONS

__all__ = ["LocalStack", "StackError", "StackInfo", "StackStatus"]

DEFAULT_KAFKA_PORT = 9092
DEFAULT_REDIS_PORT = 6379
#: Between looking for a free port and binding it, another program may take it; then the next is tried.
ATTEMPTS = 3


@dataclass(frozen=True)
class StackInfo:
    """Where a running stack answers."""

    bootstrap_servers: str
    redis_url: str
    logs_dir: Path
    #: False if `up` found everything running already
    started: bool = True


@dataclass(frozen=True)
class StackStatus:
    """What runs: process numbers (None: not running) and the addresses of the last start (None: never started)."""

    kafka_pid: int | None
    redis_pid: int | None
    bootstrap_servers: str | None
    redis_url: str | None

    @property
    def running(self) -> bool:
        """Whether both run."""
        return self.kafka_pid is not None and self.redis_pid is not None


class LocalStack:
    """A Kafka and a Redis whose data live in one folder, and survive `down`, crashes and reboots.

    Ports: a number means that port; 0 means the port of the last time if it is free, else any free one; None means the
    port of the last time, else Kafka's and Redis's usual ones.

    `topics=False` starts Kafka without creating topics; `partitions=None` means the count of the last time, else the
    default one.

    All methods may be called from several processes at once; they wait for one another.
    """

    def __init__(
        self,
        data_dir: str | Path,
        kafka_port: int | None = 0,
        redis_port: int | None = 0,
        *,
        topics: bool = True,
        partitions: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).expanduser().absolute()
        self.logs_dir = self.data_dir / "logs"
        self.kafka_port = kafka_port
        self.redis_port = redis_port
        self.topics = topics
        self.partitions = partitions
        self._tell: Progress = progress or (lambda what, done, total: None)
        self._broker = Broker(self.data_dir, self.logs_dir)
        self._redis = RedisServer(self.data_dir, self.logs_dir)

    def up(self) -> StackInfo:
        """Start what does not run yet, wait until both really answer, create the topics.

        Raises:
            StackError: a port is taken, a download failed, a server died; the message says what to do.
            TopicsDifferError: topics exist already, with other settings.
        """
        if "," in str(self.data_dir):
            raise StackError(f"the data folder's path must hold no comma, since Kafka splits it there: {self.data_dir}")
        with self._lock():
            self._refuse_to_move()
            before = self.status()
            try:
                started = [self._redis_runs(self.redis_port), self._kafka_runs(self.kafka_port)]
            except BaseException:  # also Ctrl-C: half a stack is of no use to anyone
                if before.kafka_pid is None:
                    self._broker.daemon.stop(broker.STOP_TIMEOUT_S)
                if before.redis_pid is None:
                    self._redis.daemon.stop(redis_server.STOP_TIMEOUT_S)
                raise
            info = self._info(any(started))
        if self.topics:
            from infra.topic_admin import create_topics

            partitions = self.partitions or self._known().get("partitions", DEFAULT_PARTITIONS)
            self._tell("creating topics", 0, None)
            create_topics(info.bootstrap_servers, partitions)
            with self._lock():
                self._remember(partitions=partitions)
        return info

    def down(self) -> None:
        """Stop both, gracefully; after a time-out by force. The data stay."""
        with self._lock():
            self._tell("stopping Kafka and Redis", 0, None)
            self._broker.daemon.stop(broker.STOP_TIMEOUT_S)
            self._redis.daemon.stop(redis_server.STOP_TIMEOUT_S)

    def status(self) -> StackStatus:
        """What runs. Looks at processes only; nothing is started, nothing written."""
        known = self._known()
        kafka, redis = known.get("kafka"), known.get("redis")
        return StackStatus(
            kafka_pid=self._broker.daemon.pid(),
            redis_pid=self._redis.daemon.pid(),
            bootstrap_servers=_bootstrap(kafka) if kafka else None,
            redis_url=_redis_url(redis) if redis else None,
        )

    def __enter__(self) -> StackInfo:
        return self.up()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    # --- faults, for tests: one server goes and comes back, on the same port, with its data ---------------------------

    def kill_kafka(self) -> None:
        """Kill the broker as a crash would (SIGKILL)."""
        with self._lock():
            self._broker.daemon.kill()

    def start_kafka(self) -> None:
        """Start the broker again on its port and wait until every partition can be written."""
        with self._lock():
            self._kafka_runs(self._port("kafka"))

    def stop_redis(self) -> None:
        """Stop Redis gracefully."""
        with self._lock():
            self._redis.daemon.stop(redis_server.STOP_TIMEOUT_S)

    def kill_redis(self) -> None:
        """Kill Redis as a crash would (SIGKILL)."""
        with self._lock():
            self._redis.daemon.kill()

    def start_redis(self) -> None:
        """Start Redis again on its port and wait until it answers."""
        with self._lock():
            self._redis_runs(self._port("redis"))

    # ------------------------------------------------------------------------------------------------------------------

    def _redis_runs(self, wanted: int | None) -> bool:
        """Make Redis run and answer. True if it had to be started."""
        if self._redis.daemon.pid() is not None:
            self._redis.wait_ready(self._port("redis"))
            return False
        program = find_redis_server()
        self._tell("starting Redis", 0, None)
        for attempt in range(ATTEMPTS):
            port = self._choose("redis", wanted, DEFAULT_REDIS_PORT)
            self._redis.start(program, port)
            try:
                self._redis.wait_ready(port)
                break
            except StackError:
                if wanted or attempt == ATTEMPTS - 1 or not self._redis.port_was_taken():
                    raise
        self._remember(redis=port)
        return True

    def _kafka_runs(self, wanted: int | None) -> bool:
        """Make Kafka run and answer. True if it had to be started."""
        if self._broker.daemon.pid() is not None:
            self._broker.wait_ready(self._port("kafka"))
            return False
        java, jars = find_java(), fetch_jars(self._tell)
        for attempt in range(ATTEMPTS):
            port = self._choose("kafka", wanted, DEFAULT_KAFKA_PORT)
            controller = self._choose("controller", 0, 0, avoid=port)
            self._tell("starting Kafka", 0, None)
            self._broker.start(java, jars, port, controller)
            try:
                self._broker.wait_ready(port)
                break
            except StackError:
                if attempt == ATTEMPTS - 1 or not self._broker.port_was_taken():
                    raise
        self._remember(kafka=port, controller=controller)
        return True

    def _choose(self, name: str, wanted: int | None, usual: int, avoid: int | None = None) -> int:
        last = self._known().get(name)
        if wanted == 0:
            if last and last != avoid and ports.is_free(last):
                return last
            return next(port for port in ports.any_free(2) if port != avoid)
        port = wanted or last or usual
        if not ports.is_free(port):
            raise StackError(
                f"port {port} is taken by another program, so {name.capitalize()} can't listen there; "
                f"choose another with --{name}-port (0: any free port)"
            )
        return port

    def _refuse_to_move(self) -> None:
        known = self._known()
        for name, wanted, daemon in (
            ("kafka", self.kafka_port, self._broker.daemon),
            ("redis", self.redis_port, self._redis.daemon),
        ):
            if wanted and wanted != known.get(name) and daemon.pid() is not None:
                raise StackError(
                    f"{daemon.name} of {self.data_dir} already runs, on port {known.get(name)}; "
                    f"to move it to {wanted}, stop it first (lsvcr stack down)"
                )

    def _info(self, started: bool) -> StackInfo:
        kafka, redis = self._port("kafka"), self._port("redis")
        return StackInfo(_bootstrap(kafka), _redis_url(redis), self.logs_dir, started)

    def _port(self, name: str) -> int:
        port = self._known().get(name)
        if port is None:
            raise StackError(f"{self.data_dir} holds no stack; start one with `lsvcr stack up`")
        return port

    def _known(self) -> dict[str, int]:
        """What the folder remembers: the ports `kafka`, `redis`, `controller`, and the `partitions` of the topics."""
        try:
            known: Any = json.loads((self.data_dir / "stack.json").read_text())
            return {str(name): int(number) for name, number in known.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _remember(self, **numbers: int) -> None:
        part = self.data_dir / "stack.part"
        part.write_text(json.dumps({**self._known(), **numbers}))
        part.replace(self.data_dir / "stack.json")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.logs_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(f"can't make the data folder {self.data_dir}: {error}") from None
        with (self.data_dir / "stack.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _bootstrap(port: int) -> str:
    return f"{ports.HOST}:{port}"


def _redis_url(port: int) -> str:
    return f"redis://{ports.HOST}:{port}/0"
