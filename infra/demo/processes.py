"""What the demo runs beside itself: a worker, an archiver, and traffic."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from infra.demo.scene import Scene
from offline_train.sources.simulator import Simulator
from streams.events import CommentInteraction, VideoView
from streams.publisher import Publisher

READY_S = 60.0


class DemoError(RuntimeError):
    """The demo can't go on; the message says why."""


class _Process:
    """A command of ours with its output in a file."""

    def __init__(self, log: Path, arguments: Sequence[str]) -> None:
        self.log = log
        with log.open("wb") as out:
            # In a session of its own, so that Ctrl-C in the terminal stops the demo, and the demo stops the process.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", *arguments],
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ,
            )

    def died(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])


class DemoWorker(_Process):
    """A worker; `flags` say what it serves."""

    def __init__(self, data_dir: Path, bootstrap: str, redis_url: str, flags: Sequence[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        arguments = [
            "worker", *flags, "--bootstrap-servers", bootstrap, "--redis-url", redis_url,
            "--data-dir", str(data_dir), "--http-port", str(self.port),
        ]  # fmt: skip
        super().__init__(data_dir / "worker.log", arguments)

    def wait_ready(self) -> None:
        until = time.monotonic() + READY_S
        while not json.loads(self._get("/readyz") or "{}").get("ready"):
            if self.died() or time.monotonic() > until:
                raise DemoError(f"the worker did not become ready; the end of its log:\n{self.tail()}")
            time.sleep(0.1)

    def models(self) -> dict[str, str]:
        """Version by channel, as the worker says itself."""
        found: dict[str, str] = json.loads(self._get("/readyz") or "{}").get("models", {})
        return found

    def metric(self, name: str) -> float:
        lines = self._get("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


class Archiver(_Process):
    """`lsvcr archive` into the folder `archive`."""

    def __init__(self, data_dir: Path, bootstrap: str) -> None:
        self._folder = data_dir / "archive"
        arguments = ["archive", "--to", str(self._folder), "--bootstrap-servers", bootstrap, "--flush-seconds", "2"]
        super().__init__(data_dir / "archive.log", arguments)

    def records(self) -> int:
        """How many records it has archived."""
        from model_runtime.stores import FolderStore
        from streams.archive_files import ends

        if self.died():
            raise DemoError(f"the archive died; the end of its log:\n{self.tail()}")
        return sum(ends(FolderStore(self._folder)).values())


def publish_live(simulator: Simulator, bootstrap: str, rate: float, scene: Scene, stopped: threading.Event) -> None:
    """Live traffic at `rate` records a second, until `stopped`."""
    with Publisher(bootstrap, source="lsvcr/demo", linger_ms=1) as publisher:
        began = time.monotonic()
        scene.began = began
        for number, (_, record) in enumerate(simulator.live(now_ms=int(time.time() * 1000), rate=rate)):
            if stopped.wait(max(0.0, began + number / rate - time.monotonic())):
                return
            if isinstance(record, VideoView | CommentInteraction):
                scene.sent(record)
            else:
                scene.know(record)
            publisher.publish(record)
