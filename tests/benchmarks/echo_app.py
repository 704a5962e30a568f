"""The echo that the worker's latency is measured against: each record comes back as it was, by the worker's own intake.

Batch intake, the idempotent producer, watermarks and the Redis writer are the worker's (`streams.intake`, `outbox`,
`slices`, `latest`); there is no state, no changelog and no scoring. A slice's records go out at once; when the broker
has confirmed them, they are written to Redis, all that wait in one call. Topics are its own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import faust
from redis.asyncio import Redis

from streams.intake import BatchTransport
from streams.latest import LatestStore
from streams.outbox import Delivery, Message, Outbox
from streams.preflight import quiet_libraries
from streams.slices import Ledger, Slice

EVENTS, ECHOES, GROUP = "echo-events", "echo-output", "echo"


class Echo:
    """A slice handler (`streams.intake.SliceHandler`) that sends every record on."""

    topics = (EVENTS,)
    full = False

    def __init__(self, bootstrap: str, redis: Redis) -> None:
        self._ledger = Ledger()
        self._outbox = Outbox(bootstrap, self._settled)
        self._store = LatestStore(redis)
        self._queue: list[Any] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._outbox.start()
        self._writer = asyncio.create_task(self._write())

    async def has_room(self) -> None:
        """There always is: little is asked of it."""

    def take(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        slice_ = self._ledger.open((topic, partition), len(records), records[-1].offset + 1)
        messages = [Message(ECHOES, partition, record.key, record.value) for record in records]
        self._outbox.send(messages, (slice_, records))

    def taken_up_to(self, topic: str, partition: int) -> int:
        return self._ledger.end((topic, partition))

    def committable(self) -> dict[tuple[str, int], int]:
        return self._ledger.watermarks

    def assigned(self, partitions: Iterable[tuple[str, int]]) -> None:
        pass

    async def drain(self) -> None:
        pass

    def revoked(self) -> None:
        self._ledger.clear()

    async def close(self) -> None:
        await self._outbox.close()

    def _settled(self, delivery: Delivery) -> None:
        slice_: Slice
        slice_, records = delivery.context
        assert delivery.error is None, delivery.error
        self._ledger.settle(slice_)
        now_ms = int(time.time() * 1000)
        self._queue += [("videos", record.key.decode(), record.value, now_ms, now_ms, "echo") for record in records]
        self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._queue = self._queue, []
            await self._store.write(waiting)


class EchoApp(faust.App):
    """A Faust app that starts the echo with itself."""

    echo: Echo

    async def on_first_start(self) -> None:
        await super().on_first_start()
        self.echo.start()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level="WARNING")
    quiet_libraries()
    app = EchoApp(
        GROUP,
        broker=f"kafka://{options.bootstrap_servers}",
        store="memory://",
        datadir=str(options.data_dir),
        topic_partitions=options.partitions,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        broker_max_poll_records=5000,
        web_enabled=False,
    )
    app.echo = Echo(options.bootstrap_servers, Redis.from_url(options.redis_url))
    app.transport = BatchTransport(app.echo, app.conf.broker_consumer, app)

    @app.agent(app.topic(EVENTS, key_type=bytes, value_type=bytes))
    async def events(stream: Any) -> None:
        """Only here so that Faust subscribes to the topic."""
        async for _ in stream:
            raise AssertionError("batch intake hands over every record")

    faust.Worker(
        app, loglevel="WARNING", quiet=True, override_logging=False, redirect_stdouts=False
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
