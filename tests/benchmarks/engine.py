"""engine-vs-bare-faust: the worker with a constant scorer against a stock Faust agent, on the same backlog.

The worker does all but scoring: checks and decodes events, keeps state, writes changelog, video and comment lists
(a hundred and fifty items), waits for confirmations. The stock agent writes one table value and sends one record per
event, of the sizes that the worker's have on average. Both are timed by the records that they produce, from the first
to the last, so that starting up does not count. The events are of 10 000 users in random order; on a backlog the worker
answers the events of a user that arrived together with one list, as it is made to, and the stock agent each by its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from support.topic_reader import fold, read_topic
from support.traffic import make_events, publish
from support.worker_process import REPOSITORY, WorkerProcess

from infra.local.stack import LocalStack
from streams import history, state_record
from streams.events import Event
from streams.topics import VIDEO_RECOMMENDATIONS

USERS = 10_000
PARTITIONS = 8


def run(folder: Path, *, rounds: int, quick: bool) -> list[tuple[float, float]]:
    """Rates in events per second as (worker, stock agent), one pair per round."""
    engine_log = make_events(60_000 if quick else 200_000, users=USERS, seed=3)
    stock_log = engine_log[: 15_000 if quick else 40_000]
    pairs = []
    state_bytes = round(fmean(len(state_record.encode(state)) for state in fold(engine_log, history.DEFAULT).values()))
    output_bytes = 4_000
    for number in range(rounds):
        engine, output_bytes = _engine(folder / f"engine-{number}", engine_log)
        stock = _stock(folder / f"stock-{number}", stock_log, state_bytes, output_bytes)
        pairs.append((engine, stock))
        print(
            f"  round {number + 1}/{rounds}: worker {engine:,.0f} events/s, stock agent {stock:,.0f} events/s, "
            f"ratio {engine / stock:.1f} (values {state_bytes} B, outputs {output_bytes} B)",
            flush=True,
        )
    return pairs


def _engine(folder: Path, log: Sequence[Event]) -> tuple[float, int]:
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info:
        publish(info.bootstrap_servers, log)
        command = ("-m", "tests.support.constant_worker")
        with WorkerProcess(info.bootstrap_servers, "none", folder / "worker", command=command) as worker:
            worker.wait_ready()
            worker.wait_caught_up(300)
            worker.stop()
        times, sizes = _timestamps(info.bootstrap_servers, VIDEO_RECOMMENDATIONS)
        return len(log) / (times[-1] - times[0]), round(fmean(sizes))


def _stock(folder: Path, log: Sequence[Event], state_bytes: int, output_bytes: int) -> float:
    with LocalStack(folder / "stack", partitions=PARTITIONS) as info:
        bootstrap = info.bootstrap_servers
        publish(bootstrap, log)
        arguments = [
            sys.executable, "-m", "tests.benchmarks.stock_agent", "--bootstrap-servers", bootstrap,
            "--data-dir", str(folder / "agent"), "--partitions", str(PARTITIONS),
            "--state-bytes", str(state_bytes), "--output-bytes", str(output_bytes),
        ]  # fmt: skip
        agent = subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 300
            while _end(bootstrap, VIDEO_RECOMMENDATIONS) < len(log):
                assert agent.poll() is None, "the stock agent ended by itself"
                assert time.monotonic() < until, "the stock agent did not finish within 5 minutes"
                time.sleep(0.5)
        finally:
            agent.kill()
            agent.wait()
        times, _ = _timestamps(bootstrap, VIDEO_RECOMMENDATIONS)
        return len(log) / (times[-1] - times[0])


def _timestamps(bootstrap: str, topic: str) -> tuple[list[float], list[int]]:
    """When each record was produced (s), sorted, and the sizes."""
    records = [(record.timestamp()[1] / 1000, len(record.value())) for record in read_topic(bootstrap, topic)]
    return sorted(at for at, _ in records), [size for _, size in records]


def _end(bootstrap: str, topic: str) -> int:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "log_level": 2})
    try:
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(PARTITIONS))
    finally:
        consumer.close()
