"""One Kafka node on this machine: KRaft, broker and controller in one Java process."""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import subprocess
import uuid
from pathlib import Path

from infra.local import ports
from infra.local.daemon import Daemon, tail
from infra.local.errors import StackError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
HEAP = "512m"

# Small and quick to start, and nothing that is written is thrown away behind the worker's back. What isn't here is
# Kafka's default, so that what works here works on a cluster.
SETTINGS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # A mistyped topic must fail. Faust makes its own topics through the admin API.
    "auto.create.topics.enable": "false",
    # One node holds every replica.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Each partition of these costs files and start-up time; the default is 50.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    # A group's first member need not wait for others.
    "group.initial.rebalance.delay.ms": "0",
    # Replayed logs carry old record timestamps, and retention goes by those: the default of a week would delete them
    # minutes after they were written. Topics set their own (`streams.topics`).
    "log.retention.ms": "-1",
    # A stack that was down for a month still knows what its groups had read (default: a week).
    "offsets.retention.minutes": str(365 * 24 * 60),
    # The cleaner's buffer comes out of a small heap; the default is 128 MB.
    "log.cleaner.dedupe.buffer.size": str(32 << 20),
    # After a crash the new process must wait until the session of the old one has ended (default: 9 s).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Broker:
    """The Kafka node whose data, settings and logs are below `data_dir`. Its calls are serialised by `LocalStack`."""

    def __init__(self, data_dir: Path, logs_dir: Path) -> None:
        self.data = data_dir / "kafka"
        self.properties = data_dir / "kafka.properties"
        self.log = logs_dir / "kafka.log"
        self.errors = logs_dir / "kafka.err"
        self.daemon = Daemon("Kafka", data_dir / "kafka.pid")

    def start(self, java: Path, jars: Path, port: int, controller_port: int) -> None:
        """Start the process, formatting the data folder first if it is new. Returns before the broker answers.

        Raises:
            StackError: the folder could not be formatted.
        """
        if not (self.data / "meta.properties").exists():
            self._format(java, jars)
        self._write_properties(self.data, port, controller_port)
        command = [*self._java(java, jars), "kafka.Kafka", str(self.properties)]
        self.daemon.start(command, out=self.errors, append=False, env=_environment())

    def wait_ready(self, port: int) -> None:
        """Return once a client gets metadata in which every partition has a leader: then every topic can be written.

        Raises:
            StackError: the broker died or did not answer in time; the message ends with its last words.
        """
        if self.daemon.wait_until(lambda: ports.answers(port), START_TIMEOUT_S):
            from infra.topic_admin import Readiness

            if self.daemon.wait_until(Readiness(f"{ports.HOST}:{port}").is_ready, START_TIMEOUT_S):
                return
        what = "does not answer" if self.daemon.pid() else "died at its start"
        last = tail(self.errors) or tail(self.log)
        raise StackError(f"Kafka {what}; its log is {self.log}, and ends:\n{last}")

    def port_was_taken(self) -> bool:
        """Whether the last start failed because something else listens on one of the ports."""
        return "Address already in use" in tail(self.errors)

    def _format(self, java: Path, jars: Path) -> None:
        """Give the data folder its cluster id. Done beside it and renamed: a crash leaves no half-formatted folder."""
        new = self.data.with_name("kafka.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)  # it has no meta.properties, so no broker has ever used it
        self._write_properties(new, *ports.any_free(2))
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # Joined with "=", since an id may begin with "-".
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", f"--config={self.properties}"]
        # Compiling for speed does not pay in a second of life.
        java_once = [*self._java(java, jars), "-XX:TieredStopAtLevel=1"]
        done = subprocess.run([*java_once, *tool], capture_output=True, text=True, env=_environment())
        if done.returncode != 0:
            raise StackError(f"Kafka's data folder {new} could not be formatted:\n{done.stderr or done.stdout}")
        new.rename(self.data)

    def _java(self, java: Path, jars: Path) -> list[str]:
        return [
            str(java),
            f"-Xmx{HEAP}",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Dlsvcr.logs={self.log.parent}",
            f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
            *shlex.split(os.environ.get("LSVCR_JAVA_OPTIONS", "")),
            "-cp",
            f"{jars}/*",
        ]

    def _write_properties(self, data: Path, port: int, controller_port: int) -> None:
        broker = f"PLAINTEXT://{ports.HOST}:{port}"
        settings = {
            **SETTINGS,
            "listeners": f"{broker},CONTROLLER://{ports.HOST}:{controller_port}",
            "advertised.listeners": broker,
            "controller.quorum.voters": f"1@{ports.HOST}:{controller_port}",
            "log.dirs": str(data),
        }
        part = self.properties.with_suffix(".part")
        part.write_text("".join(f"{key}={_escaped(value)}\n" for key, value in settings.items()), encoding="ascii")
        part.replace(self.properties)


def _escaped(value: str) -> str:
    """A value for a Java properties file, which is read as Latin-1."""
    return "".join(
        character if " " <= character <= "~" and character != "\\" else _utf16_escapes(character) for character in value
    )


def _utf16_escapes(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _environment() -> dict[str, str]:
    # Java takes the encoding of file names from the locale: with plain C, a folder named "Größe" can't be opened.
    return {**os.environ, "LC_ALL": "C.UTF-8"}
