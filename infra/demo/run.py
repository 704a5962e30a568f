"""The demo from start to end: stack, catalog, worker, live traffic, view, summary, cleaning up."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from infra.demo.platform import BUNDLE, PLATFORM
from infra.demo.scene import Scene
from infra.demo.view import draw
from infra.local.stack import LocalStack
from offline_train.sources.simulator import Simulator
from streams.events import CommentInteraction, VideoView
from streams.feed import FeedClient
from streams.publisher import Publisher

READY_S = 60.0
SETTLE_S = 15.0


class DemoError(RuntimeError):
    """The demo can't go on; the message says why."""


def run(data_dir: Path, *, seconds: float | None, rate: float, console: Console) -> dict[str, Any]:
    """Run the demo, until `seconds` are over or the person stops it; returns the summary.

    Everything it starts it stops, and its folder is removed.

    Raises:
        DemoError: the worker did not start, or died.
    """
    shutil.rmtree(data_dir, ignore_errors=True)
    with ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, data_dir, ignore_errors=True)
        console.print("starting Kafka and Redis ...")
        info = cleaning.enter_context(LocalStack(data_dir / "stack"))
        console.print(f"simulating {PLATFORM.users} users and {PLATFORM.videos} videos ...")
        scene, simulator = Scene(), Simulator(PLATFORM)
        with Publisher(info.bootstrap_servers, source="lsvcr/demo") as publisher:
            for catalog in simulator.catalog():
                for record in catalog:
                    scene.know(record)
                    publisher.publish(record)
        console.print("starting a worker ...")
        worker = _Worker(data_dir, info.bootstrap_servers, info.redis_url)
        cleaning.callback(worker.stop)
        worker.wait_ready()
        place = (
            f"Kafka {info.bootstrap_servers}   Redis {info.redis_url}   metrics http://127.0.0.1:{worker.port}/metrics"
        )
        stopped = threading.Event()
        traffic = threading.Thread(
            target=_publish, args=(simulator, info.bootstrap_servers, rate, scene, stopped), daemon=True
        )
        asyncio.run(_watch(scene, info.redis_url, info.bootstrap_servers, traffic, stopped, seconds, place, console))
        traffic.join(SETTLE_S)
        rejected = worker.metric("lsvcr_rejected_events_total")
        in_redis = asyncio.run(_in_redis(scene, info.redis_url, info.bootstrap_servers))
        if worker.died():
            raise DemoError(f"the worker died; the end of its log:\n{worker.tail()}")
        return {**scene.summary(), "rejected": int(rejected), "users_with_lists_in_redis": in_redis}


def _publish(simulator: Simulator, bootstrap: str, rate: float, scene: Scene, stopped: threading.Event) -> None:
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


async def _watch(
    scene: Scene,
    redis_url: str,
    bootstrap: str,
    traffic: threading.Thread,
    stopped: threading.Event,
    seconds: float | None,
    place: str,
    console: Console,
) -> None:
    """Read the lists as they come, and draw."""

    async def read() -> None:
        async with FeedClient(redis_url, bootstrap) as feed:
            async for record in feed.stream(from_beginning=True):
                scene.received(record)

    reading = asyncio.create_task(read())
    traffic.start()
    until = None if seconds is None else time.monotonic() + seconds
    try:
        with Live(console=console, refresh_per_second=4, screen=console.is_terminal) as live:
            while (until is None or time.monotonic() < until) and not reading.done():
                if console.is_terminal:
                    live.update(draw(scene, place))
                await asyncio.sleep(0.25)
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    finally:
        stopped.set()
    # The last events get their lists.
    settled = time.monotonic() + SETTLE_S
    while not reading.done() and time.monotonic() < settled and (traffic.is_alive() or not scene.answered()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    if reading.done():
        await reading  # raises what ended it
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading


async def _in_redis(scene: Scene, redis_url: str, bootstrap: str) -> int:
    """How many users find their last list of videos in Redis."""
    found = 0
    async with FeedClient(redis_url, bootstrap) as feed:
        for user, last in scene.videos.items():
            latest = await feed.latest_videos(user)
            found += latest is not None and latest.trigger == last.trigger
    return found


class _Worker:
    """A worker process of the demo."""

    def __init__(self, data_dir: Path, bootstrap: str, redis_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = data_dir / "worker.log"
        arguments = [
            sys.executable, "-m", "infra.cli", "worker", "--bundle", str(BUNDLE),
            "--bootstrap-servers", bootstrap, "--redis-url", redis_url,
            "--data-dir", str(data_dir), "--http-port", str(self.port),
        ]  # fmt: skip
        with self.log.open("wb") as out:
            # In a session of its own, so that Ctrl-C in the terminal stops the demo, and the demo stops the worker.
            self._process = subprocess.Popen(arguments, stdout=out, stderr=out, start_new_session=True, env=os.environ)

    def wait_ready(self) -> None:
        until = time.monotonic() + READY_S
        while not json.loads(self._get("/readyz") or "{}").get("ready"):
            if self.died() or time.monotonic() > until:
                raise DemoError(f"the worker did not become ready; the end of its log:\n{self.tail()}")
            time.sleep(0.1)

    def died(self) -> bool:
        return self._process.poll() is not None

    def metric(self, name: str) -> float:
        lines = self._get("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""
