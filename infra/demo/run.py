"""The demo from start to end: stack, catalog, worker, live traffic, view, summary, cleaning up."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from infra.demo.platform import BUNDLE, PLATFORM
from infra.demo.processes import DemoError, DemoWorker, publish_live
from infra.demo.scene import Scene
from infra.demo.view import draw
from infra.local.stack import LocalStack
from offline_train.sources.simulator import Simulator
from streams.feed import FeedClient
from streams.publisher import Publisher

SETTLE_S = 15.0


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
        worker = DemoWorker(data_dir, info.bootstrap_servers, info.redis_url, ("--bundle", str(BUNDLE)))
        cleaning.callback(worker.stop)
        worker.wait_ready()
        place = (
            f"Kafka {info.bootstrap_servers}   Redis {info.redis_url}   metrics http://127.0.0.1:{worker.port}/metrics"
        )
        stopped = threading.Event()
        traffic = threading.Thread(
            target=publish_live, args=(simulator, info.bootstrap_servers, rate, scene, stopped), daemon=True
        )
        asyncio.run(_watch(scene, info.redis_url, info.bootstrap_servers, traffic, stopped, seconds, place, console))
        traffic.join(SETTLE_S)
        rejected = worker.metric("lsvcr_rejected_events_total")
        in_redis = asyncio.run(_in_redis(scene, info.redis_url, info.bootstrap_servers))
        if worker.died():
            raise DemoError(f"the worker died; the end of its log:\n{worker.tail()}")
        return {**scene.summary(), "rejected": int(rejected), "users_with_lists_in_redis": in_redis}


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
