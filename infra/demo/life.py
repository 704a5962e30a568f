"""A model's life under traffic, on this machine: archive, refreshes, the gate, swaps, a refusal, a way back.

    1  a log is published and archived; a refresh trains the first model on it, a worker serves it, traffic begins
    2  a refresh trains on what the archive has by then; it is no worse, so it is published, and the worker swaps
    3  a refresh whose training went wrong: the gate refuses it, nothing is published
    4  a bundle with one bit flipped is announced: the worker refuses it and serves on
    5  a rollback: the version before serves again
    6  a new video takes off, and is in the lists of others

Nothing stops meanwhile. Needs what training needs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.demo.processes import Archiver, DemoError, DemoWorker, publish_live
from infra.demo.rising import TOP, take_off
from infra.demo.scene import Scene
from infra.local.stack import LocalStack
from model_runtime.registry import Registry
from offline_train.sources.simulator import Simulator
from offline_train.sources.simulator_config import SimulatorConfig
from streams.feed import FeedClient
from streams.publisher import Publisher
from streams.releases import STABLE, Release, announce

PLATFORM = SimulatorConfig(seed=3, users=300, videos=300, comments=1_500, days=10, interactions=6_000)
#: Small models on few targets: two of them differ by more than the margin that a platform would set.
CONFIG = {
    "train": {"epochs": 2, "epoch_samples": 2_000, "batch": 128, "threads": 1},
    "student": {"samples": 5_000, "bits": 12},
    "split": {"test": 0.2},
    "gate": {"fewest": 10, "margin": 0.2},
}
STEADY_S, SWAP_S, WAIT_S = 10.0, 5.0, 60.0


def run(data_dir: Path, *, rate: float, console: Console, picture: Path | None = None) -> dict[str, Any]:
    """Live through it; returns the summary. Everything it starts it stops, and its folder is removed.

    Args:
        picture: where latency against time is drawn, with what happened meanwhile.

    Raises:
        DemoError: something did not happen as it must; the message says what.
    """
    data_dir = data_dir.resolve()
    shutil.rmtree(data_dir, ignore_errors=True)
    with ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, data_dir, ignore_errors=True)
        console.print("starting Kafka and Redis ...")
        info = cleaning.enter_context(LocalStack(data_dir / "stack"))
        life = _Life(data_dir, info.bootstrap_servers, info.redis_url, rate, console, cleaning)
        life.first_model()
        life.begin_traffic()
        life.refresh_and_swap()
        life.bad_model()
        life.corrupted_bundle()
        life.rollback()
        life.a_video_takes_off()  # last: what such a crowd does would be a good part of what models are judged on
        summary = life.end()
    if picture is not None:
        _draw(life, picture)
        console.print(f"drawn: {picture}")
    return summary


class _Life:
    def __init__(
        self, data_dir: Path, bootstrap: str, redis_url: str, rate: float, console: Console, cleaning: ExitStack
    ) -> None:
        self.data_dir, self.bootstrap, self.redis_url, self.rate = data_dir, bootstrap, redis_url, rate
        self.console, self.cleaning = console, cleaning
        self.registry = Registry(data_dir / "registry")
        self.simulator = Simulator(PLATFORM.ending_at(int(time.time() * 1000)))
        self.scene = Scene()
        self.versions: list[str] = []
        self.made_by: Counter[str] = Counter()
        self.chapters: list[tuple[str, float, float]] = []  #: what, from when, to when (monotonic seconds)
        self.swaps: list[float] = []
        self.rollback_s = 0.0
        self.rising: dict[str, Any] = {}
        self._stopped = threading.Event()
        self._reader_failed: list[BaseException] = []
        self._config = data_dir / "refresh.yaml"
        places = {name: str(data_dir / name) for name in ("archive", "registry", "work")}
        self._config.write_text(json.dumps(places | CONFIG))  # JSON is YAML

    def first_model(self) -> None:
        """A log, its archive, and a model of it."""
        archiver = Archiver(self.data_dir, self.bootstrap)
        self.cleaning.callback(archiver.stop)
        with self._chapter("publishing and archiving a log"), Publisher(self.bootstrap) as publisher:
            count = 0
            for record in [entry for catalog in self.simulator.catalog() for entry in catalog]:
                self.scene.know(record)
                publisher.publish(record)
                count += 1
            for event in self.simulator.events():
                publisher.publish(event)
                count += 1
            publisher.flush()
            _wait(lambda: archiver.records() >= count, f"the archive has {count:,} records")
        with self._chapter("a refresh trains the first model"):
            self._refreshed("published")

    def begin_traffic(self) -> None:
        """A worker serves it, users go on."""
        with self._chapter("a worker starts"):
            flags = "--registry", str(self.data_dir / "registry")
            self.worker = DemoWorker(self.data_dir, self.bootstrap, self.redis_url, flags)
            self.cleaning.callback(self.worker.stop)
            self.worker.wait_ready()
            self._serves(self.versions[-1])
        arguments = (self.simulator, self.bootstrap, self.rate, self.scene, self._stopped)
        self._traffic = threading.Thread(target=publish_live, args=arguments, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._traffic.start()
        self.cleaning.callback(self._stopped.set)
        with self._chapter("traffic, and nothing else"):
            time.sleep(STEADY_S)

    def refresh_and_swap(self) -> None:
        """A new model takes over."""
        with self._chapter("a refresh trains on the archive, is no worse, and is published"):
            self._refreshed("published")
            self.swaps.append(time.monotonic())
            self._serves(self.versions[-1])
        time.sleep(SWAP_S)

    def bad_model(self) -> None:
        """Training goes wrong, and nobody notices but the gate."""
        with self._chapter("a refresh whose training went wrong is rejected by the gate"):
            why = self._refreshed("rejected", "infra.demo.spoilt")["why"]
            self.console.print(f"  the report says: {why}", highlight=False)
            self._serves(self.versions[-1])

    def corrupted_bundle(self) -> None:
        """A bundle was damaged on its way."""
        with self._chapter("a bundle with one bit flipped is refused by the worker"):
            damaged = self.data_dir / "damaged"
            shutil.copytree(self.registry.path(self.versions[-1]), damaged)
            file = damaged / "video_vectors.npy"
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
            when = self.registry.pointer(STABLE).promoted_ms + 1
            announce(self.bootstrap, Release(STABLE, self.versions[-1], damaged.as_uri(), "1" * 64, when))
            _wait(lambda: self.worker.metric("lsvcr_model_refusals_total") == 1, "refusing it")
            self._serves(self.versions[-1])

    def rollback(self) -> None:
        """Back to the version before."""
        with self._chapter("a rollback"):
            command = [sys.executable, "-m", "infra.cli", "models", "rollback"]
            places = ["--registry", str(self.data_dir / "registry"), "--bootstrap-servers", self.bootstrap]
            done = subprocess.run([*command, *places], capture_output=True, text=True, check=False)
            if done.returncode:
                raise DemoError(f"the rollback failed:\n{done.stderr}")
            self._serves(self.versions[0])
            self.rollback_s = time.time() - self.registry.pointer(STABLE).promoted_ms / 1000
            self.swaps.append(time.monotonic())
        time.sleep(SWAP_S)

    def a_video_takes_off(self) -> None:
        """What many watch is shown to the others."""
        with self._chapter("a new video takes off"):
            self.rising = take_off(self.bootstrap, self.scene)
        told = "  in the best {top} of an unrelated user {seconds} s after its first view, then in {share:.0%} of lists"
        self.console.print(told.format(top=TOP, **self.rising), highlight=False)

    def end(self) -> dict[str, Any]:
        """The last events get their lists."""
        self._stopped.set()
        self._traffic.join(WAIT_S)
        _wait(self.scene.answered, "every user's last event is covered by a list")
        self._reader.join(WAIT_S)
        if self._reader_failed:
            raise DemoError(f"reading recommendations failed: {self._reader_failed[0]!r}")
        if self.worker.died():
            raise DemoError(f"the worker died; the end of its log:\n{self.worker.tail()}")
        if strange := set(self.made_by) - set(self.versions):
            raise DemoError(f"lists by models that were never published: {strange}")
        near, otherwise = self.latencies()
        return self.scene.summary() | {
            "published": self.versions,
            "lists_by_version": dict(self.made_by),
            "latency_ms_near_a_swap": _quantiles(near),
            "latency_ms_otherwise": _quantiles(otherwise),
            "a_video_takes_off": self.rising,
            "rollback_s": round(self.rollback_s, 2),
            "chapters_s": {what: round(end - began, 1) for what, began, end in self.chapters},
        }

    def latencies(self) -> tuple[list[float], list[float]]:
        """Seconds from event to list: of events within 1 s before to 5 s after a swap, and of the others."""
        parts: tuple[list[float], list[float]] = ([], [])
        for at, took in self.scene.answers:
            parts[not any(-1.0 < at - swap < SWAP_S for swap in self.swaps)].append(took)
        return parts

    @contextmanager
    def _chapter(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        with self.console.status(f"{what} ..."):
            yield
        self.chapters.append((what, began, time.monotonic()))
        self.console.print(f"{what}: {time.monotonic() - began:.1f} s", highlight=False)

    def _refreshed(self, outcome: str, module: str = "infra.cli") -> dict[str, Any]:
        arguments = ["--config", str(self._config), "--bootstrap-servers", self.bootstrap, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", module, "train", "refresh", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"the refresh failed:\n{done.stderr}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if told["outcome"] != outcome:
            raise DemoError(f"the refresh should have been {outcome}, and was {told['outcome']}: {told['why']}")
        if told["version"] is not None:
            self.versions.append(told["version"])
        return told

    def _serves(self, version: str) -> None:
        _wait(lambda: self.worker.models() == {STABLE: version}, f"serving {version}")

    def _read(self) -> None:
        async def until_stopped() -> None:
            async with FeedClient(self.redis_url, self.bootstrap) as feed:
                async for record in feed.stream(from_beginning=True):
                    self.made_by[record.model_version] += 1
                    self.scene.received(record)

        async def run() -> None:
            reading = asyncio.create_task(until_stopped())
            while not reading.done() and not (self._stopped.is_set() and self.scene.answered()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if reading.done():
                await reading  # raises what ended it
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

        try:
            asyncio.run(run())
        except Exception as error:  # told by the main thread
            self._reader_failed.append(error)


def _wait(reached: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not reached():
        if time.monotonic() > until:
            raise DemoError(f"within {WAIT_S:.0f} s this did not happen: {what}")
        time.sleep(0.1)


def _quantiles(seconds: list[float]) -> dict[str, float | int]:
    if not seconds:
        return {"samples": 0}
    ordered = sorted(1000 * value for value in seconds)
    shares = {"p50": 0.5, "p99": 0.99}
    found = {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * q))], 1) for name, q in shares.items()}
    return {**found, "most": round(ordered[-1], 1), "samples": len(ordered)}


def _draw(life: _Life, path: Path) -> None:
    """Latency of each event against time, with what happened meanwhile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    start = life.scene.began
    figure, axis = plt.subplots(figsize=(11, 4.2), layout="constrained")
    colours = ("#dfe7ee", "#f3ead9")
    for number, (what, began, end) in enumerate(c for c in life.chapters if c[2] > start):
        axis.axvspan(began - start, end - start, color=colours[number % 2], label=f"{number + 1}: {what}")
        axis.annotate(str(number + 1), ((began + end) / 2 - start, 0.97), xycoords=("data", "axes fraction"), va="top")
    axis.scatter(
        [at - start for at, _ in life.scene.answers], [1000 * t for _, t in life.scene.answers], s=5, c="#4c78a8"
    )
    for swap in life.swaps:
        axis.axvline(swap - start, color="#c8553d", linewidth=1)
    axis.set_yscale("log")
    axis.set_xlabel("seconds since traffic began (red: another model serves from here on)")
    axis.set_ylabel("event to list, ms")
    axis.set_title("A model's life under traffic")
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
