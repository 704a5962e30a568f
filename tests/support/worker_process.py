"""A real worker in a process of its own, to be watched, stopped and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from streams.topics import APP_ID, EVENT_TOPICS
from streams.whole_topic import first_and_end

REPOSITORY = Path(__file__).parents[2]


class WorkerProcess:
    """`lsvcr worker` (or another command line that takes the same flags) with its health endpoint and its log."""

    def __init__(
        self,
        bootstrap: str,
        redis_url: str,
        data_dir: Path,
        *,
        bundle: Path | None = None,
        worker_id: str = "0",
        command: tuple[str, ...] = ("-m", "infra.cli", "worker"),
        flags: tuple[str, ...] = (),
    ) -> None:
        self.port = free_port()
        self._bootstrap = bootstrap
        self.log = data_dir / f"worker-{worker_id}.log"
        self._arguments = [
            sys.executable, *command,
            "--bootstrap-servers", bootstrap, "--redis-url", redis_url,
            "--data-dir", str(data_dir), "--worker-id", worker_id, "--http-port", str(self.port),
            *(("--bundle", str(bundle)) if bundle else ()), *flags,
        ]  # fmt: skip
        self._said_before = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> WorkerProcess:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._arguments, stdout=out, stderr=out, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR2)
            time.sleep(2)
            raise AssertionError(f"the worker did not stop within {timeout} s:\n{self.tail(200)}") from None

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of an endpoint; 0 if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def health(self) -> dict[str, Any]:
        """What /healthz says; {} if it does not answer."""
        body = self.get("/healthz")[1]
        return json.loads(body) if body else {}

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def wait_ready(self, timeout: float = 60) -> WorkerProcess:
        """Until partitions are assigned and recovered, and the catalog is read."""
        self.wait(lambda: self.get("/readyz")[0] == 200, timeout, "ready")
        return self

    def wait_caught_up(self, timeout: float = 120) -> WorkerProcess:
        """Until everything published so far to this worker's partitions is confirmed and committed.

        The worker's own lag is no older than its last fetch; what was published is asked of the broker.
        """
        group = {"bootstrap.servers": self._bootstrap, "group.id": APP_ID, "enable.auto.commit": False}
        consumer = Consumer(group)  # it asks, and joins nothing
        try:
            found = consumer.list_topics(timeout=10).topics
            places = [TopicPartition(topic, p) for topic in EVENT_TOPICS for p in found[topic].partitions]
            ends = {
                (place.topic, place.partition): first_and_end(consumer, place.topic, place.partition)[1]
                for place in places
            }

            def caught_up() -> bool:
                health = self.health()
                ours = health.get("partitions")
                if not ours or health["lag"] != 0:
                    return False
                committed = consumer.committed([place for place in places if place.partition in ours], 10)
                return all(max(0, at.offset) >= ends[at.topic, at.partition] for at in committed)

            self.wait(caught_up, timeout, "caught up")
        finally:
            consumer.close()
        return self

    def wait(self, condition: Any, timeout: float, what: str) -> None:
        until = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < until, (
                f"the worker is not {what} after {timeout} s:\n{self.health()}\n{self.tail()}"
            )
            time.sleep(0.1)

    def said(self) -> str:
        """What it has logged since its last start."""
        return self.log.read_bytes()[self._said_before :].decode(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> WorkerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
