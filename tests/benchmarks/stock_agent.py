"""The stock Faust agent that the engine is measured against: per event one table write and one send, nothing else.

It is given every advantage that leaves it a stock agent: raw bytes instead of Faust's JSON, no records, no web server,
RocksDB with the same options, loggers quiet.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import faust

from streams import topics
from streams.table import ROCKSDB_OPTIONS

#: The types alone don't keep Faust from decoding JSON, its application's default.
RAW: dict[str, Any] = {
    "key_type": bytes,
    "value_type": bytes,
    "key_serializer": "raw",
    "value_serializer": "raw",
}


def stock_app(name: str, options: argparse.Namespace) -> tuple[faust.App, faust.Table]:
    """A Faust app as one sets it up, and its table of raw bytes.

    `options`: bootstrap_servers, data_dir, partitions.
    """
    app = faust.App(
        name,
        broker=f"kafka://{options.bootstrap_servers}",
        store="rocksdb://?driver=rocksdict",
        datadir=str(options.data_dir),
        topic_partitions=options.partitions,
        topic_disable_leader=True,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
    )
    table = app.Table(
        "state", key_type=bytes, value_type=bytes, partitions=options.partitions, options=dict(ROCKSDB_OPTIONS)
    )
    return app, table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--state-bytes", type=int, required=True, help="size of the table's values")
    parser.add_argument("--output-bytes", type=int, required=True, help="size of the records sent")
    parser.add_argument("--output-topic", default=topics.VIDEO_RECOMMENDATIONS)
    options = parser.parse_args()
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)

    app, table = stock_app("stock", options)
    output = app.topic(options.output_topic, **RAW)
    state, recommendation = b"s" * options.state_bytes, b"r" * options.output_bytes

    @app.agent(app.topic(*topics.EVENT_TOPICS, **RAW))
    async def recommend(stream: Any) -> None:
        async for event in stream.events():
            table[event.key] = state
            await output.send(key=event.key, value=recommendation)

    faust.Worker(
        app, loglevel="WARNING", quiet=True, override_logging=False, redirect_stdouts=False
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
