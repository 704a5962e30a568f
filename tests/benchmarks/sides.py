"""The applications that benchmarks compare, each in a process of its own, all seen the same way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from support.worker_process import REPOSITORY, WorkerProcess

from model_runtime.nearest import EXACT_UP_TO
from streams import topics
from tests.benchmarks import echo_app, quix_environment
from tests.benchmarks.metering import OUTSTANDING, Feeder, Meter, cpu_seconds, resident_bytes, wait_for
from tests.benchmarks.workload import Users, records

CONSTANT = ("-m", "tests.support.constant_worker")


class Side:
    """An application that answers events. `outputs`: the topic that gets one record for each event."""

    group: str
    outputs: str
    events: tuple[str, ...] = topics.EVENT_TOPICS  #: what it reads

    def __init__(self, meter: Meter, folder: Path) -> None:
        self.meter, self.folder = meter, folder
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line."""
        raise NotImplementedError

    def start(self, offsets: dict[tuple[str, int], int] | None = None) -> None:
        """Start, reading from `offsets` on (None: from the ends), and wait until it would answer an event."""
        self.meter.start_at(self.group, offsets or self.meter.ends(*self.events))
        self.folder.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        env["PYTHONPATH"] = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(self.command(), stdout=out, stderr=out, cwd=REPOSITORY, env=env)

    def alive(self) -> None:
        """Fails, with what it said, if the process has ended."""
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def pids(self) -> list[int]:
        assert self._process is not None
        return [self._process.pid]

    def cpu(self) -> float:
        """Processor seconds so far."""
        return cpu_seconds(*self.pids)

    def memory(self) -> int:
        """Resident bytes."""
        return sum(map(resident_bytes, self.pids))

    def answered(self) -> int:
        """How many events were ever answered, as far as the broker has it."""
        return self.meter.count(self.outputs)

    def warm(self, feeder: Feeder, users: Users, partitions: int) -> None:
        """Answer every user once, and whatever else a process that has just started needs to run as it will."""
        log = records(users.events(users.count), partitions)
        feeder.keep_up(log, self.answered, min(OUTSTANDING, users.count // 2), self.alive)
        self.settle()

    def settle(self) -> None:
        """Wait until also the state of what was answered is confirmed."""

    def confirmed(self) -> bool:
        """Whether everything that was published is answered, and state and progress of it are confirmed."""
        return self.meter.committed(self.group, *self.events) >= self.meter.count(*self.events)


def _has_index(process: WorkerProcess) -> bool:
    return "videos is in use" in process.said()


class Worker(Side):
    """The worker (several with `workers`): with a bundle, or with a constant scorer (None)."""

    group = topics.APP_ID
    outputs = topics.VIDEO_RECOMMENDATIONS

    def __init__(
        self, meter: Meter, folder: Path, bundle: Path | None, *, workers: int = 1, redis_url: str = "none",
        flags: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(meter, folder)
        self.bundle = bundle
        command = CONSTANT if bundle is None else ("-m", "infra.cli", "worker")
        self.processes = [
            WorkerProcess(
                meter.bootstrap, redis_url, folder, bundle=bundle, worker_id=str(i), command=command, flags=flags
            )
            for i in range(workers)
        ]

    def start(self, offsets: dict[tuple[str, int], int] | None = None) -> None:
        self.meter.start_at(self.group, offsets or self.meter.ends(*self.events))
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait_ready(300)

    def wait_shared(self, partitions: int) -> None:
        """Until the workers have all partitions among them, and each of several has some."""

        def shared() -> bool:
            told = [process.health().get("partitions") or [] for process in self.processes]
            return all(told) and sorted(chain.from_iterable(told)) == list(range(partitions))

        wait_for(shared, "the partitions' division", 60, self.alive)

    def alive(self) -> None:
        for process in self.processes:
            assert process.process.poll() is None, process.tail()

    def stop(self) -> None:
        for process in self.processes:
            process.__exit__()

    @property
    def pids(self) -> list[int]:
        return [process.process.pid for process in self.processes]

    def warm(self, feeder: Feeder, users: Users, partitions: int) -> None:
        super().warm(feeder, users, partitions)
        # The index that a large catalog gets is begun after a thousand scored users, and taken up by the next batch.
        until = time.monotonic() + 180
        while self.bundle is not None and users.videos > EXACT_UP_TO and not all(map(_has_index, self.processes)):
            assert time.monotonic() < until, f"no index after three minutes: {self.processes[0].tail()}"
            log = records(users.events(200), partitions)
            feeder.keep_up(log, self.answered, min(OUTSTANDING, users.count // 2), self.alive)

    def settle(self) -> None:
        # The changelog's records are sent before the lists, in one group with them.
        wait_for(self.confirmed, "what the broker has of the worker", 60, self.alive)

    def confirmed(self) -> bool:
        # What it tells of itself moves with the broker's confirmations; its commits follow once a second.
        told = [process.health() for process in self.processes]
        return all(health.get("lag") == 0 and health["partitions"] for health in told)


class StockAgent(Side):
    """A stock Faust agent: one table write and one send per event, no more."""

    group = "stock"
    outputs = "stock-output"

    def __init__(self, meter: Meter, folder: Path, *, partitions: int, state_bytes: int, output_bytes: int) -> None:
        super().__init__(meter, folder)
        self._sizes = {"partitions": partitions, "state-bytes": state_bytes, "output-bytes": output_bytes}

    def command(self) -> list[str]:
        sizes = [part for name, value in self._sizes.items() for part in (f"--{name}", str(value))]
        return [
            sys.executable, "-m", "tests.benchmarks.stock_agent", "--bootstrap-servers", self.meter.bootstrap,
            "--data-dir", str(self.folder / "data"), "--output-topic", self.outputs, *sizes,
        ]  # fmt: skip

    def answered(self) -> int:
        # A table write goes to the changelog before the record is sent, by another buffer: the slower one counts.
        return min(self.meter.count(self.outputs), self.meter.count("stock-state-changelog"))


class Echo(Side):
    """Each record back as it came, by the worker's own intake."""

    group = echo_app.GROUP
    outputs = echo_app.ECHOES
    events = (echo_app.EVENTS,)

    def __init__(self, meter: Meter, folder: Path, *, redis_url: str, partitions: int) -> None:
        super().__init__(meter, folder)
        self._arguments = ["--redis-url", redis_url, "--partitions", str(partitions)]

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "tests.benchmarks.echo_app", "--bootstrap-servers", self.meter.bootstrap,
            "--data-dir", str(self.folder / "data"), *self._arguments,
        ]  # fmt: skip


class NaiveApp(Side):
    """The job as one writes it first: stock agent, PyTorch eager, full encoding and full sort per event."""

    group = "naive"
    outputs = "naive-videos"

    def __init__(
        self, meter: Meter, folder: Path, bundle: Path, weights: Path, *, partitions: int, states: Path
    ) -> None:
        super().__init__(meter, folder)
        self._arguments = ["--bundle", str(bundle), "--weights", str(weights), "--partitions", str(partitions)]
        self._arguments += ["--states", str(states)]

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "tests.benchmarks.naive_app", "--bootstrap-servers", self.meter.bootstrap,
            "--data-dir", str(self.folder / "data"), *self._arguments,
        ]  # fmt: skip

    def answered(self) -> int:
        return min(self.meter.count(self.outputs), self.meter.count("naive-state-changelog"))


class Quix(Side):
    """The job on Quix Streams, with a constant scorer (None) or the ONNX one, full encoding per event."""

    def __init__(
        self, meter: Meter, folder: Path, bundle: Path | None, *, commit_every: int, states: Path | None = None
    ) -> None:
        super().__init__(meter, folder)
        kind = "engine" if bundle is None else "job"
        self.group, self.outputs = f"quix-{kind}", f"quix-{kind}-videos"
        self._arguments = [] if bundle is None else ["--bundle", str(bundle)]
        self._arguments += ["--group", self.group, "--commit-every", str(commit_every)]
        self._arguments += [] if states is None else ["--states", str(states)]

    def command(self) -> list[str]:
        return [
            str(quix_environment.python()), "-m", "tests.benchmarks.quix_app", "--bootstrap-servers",
            self.meter.bootstrap, "--data-dir", str(self.folder / "data"), *self._arguments,
        ]  # fmt: skip

    def settle(self) -> None:
        # A checkpoint flushes changelogs and outputs, then commits.
        wait_for(self.confirmed, "the last checkpoint", 60, self.alive)


def preload(meter: Meter, states: Iterable[tuple[bytes, bytes]], topic: str, partitions: int) -> None:
    """Put users' states on a changelog, where applications recover them from."""
    feeder = Feeder(meter.bootstrap)
    for key, value in states:
        feeder.send([(topic, topics.partition_of(key, partitions), key, value)])
    feeder.flush()
