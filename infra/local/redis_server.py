"""One Redis server on this machine, which keeps what it is told (append-only file)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from infra.local import ports
from infra.local.daemon import Daemon, tail
from infra.local.errors import StackError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

SETTINGS = {
    "bind": ports.HOST,
    "protected-mode": "yes",
    "daemonize": "no",
    # The append-only file is the only copy on disk; it loses at most a second in a power cut and nothing in a crash.
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
}


class RedisServer:
    """The Redis whose data, settings and logs are below `data_dir`. Its calls are serialised by `LocalStack`."""

    def __init__(self, data_dir: Path, logs_dir: Path) -> None:
        self.data = data_dir / "redis"
        self.config = data_dir / "redis.conf"
        self.log = logs_dir / "redis.log"
        self.daemon = Daemon("Redis", data_dir / "redis.pid")

    def start(self, program: Path, port: int) -> None:
        """Start the process. Returns before the server answers."""
        self.data.mkdir(exist_ok=True)
        settings = {**SETTINGS, "port": str(port), "dir": _quoted(str(self.data))}
        part = self.config.with_suffix(".part")
        part.write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
        part.replace(self.config)
        self.daemon.start([program, self.config], out=self.log, append=True, env=os.environ)

    def wait_ready(self, port: int) -> None:
        """Return once the server answers PING (after a crash it reads its file first).

        Raises:
            StackError: the server died or did not answer in time; the message ends with its last words.
        """
        if self.daemon.wait_until(lambda: _pings(port), START_TIMEOUT_S):
            return
        what = "does not answer" if self.daemon.pid() else "died at its start"
        raise StackError(f"Redis {what}; its log is {self.log}, and ends:\n{tail(self.log)}")

    def port_was_taken(self) -> bool:
        """Whether the last start failed because something else listens on the port."""
        return "Address already in use" in tail(self.log, 5)


def _pings(port: int) -> bool:
    try:
        with socket.create_connection((ports.HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
