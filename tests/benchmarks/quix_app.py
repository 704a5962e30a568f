"""The worker's job on Quix Streams, as its documentation has one write it. Runs in Quix Streams' own environment.

Both event topics concatenated into one dataframe; per event: decode and check, apply to the user's state in RocksDB
with a changelog, score, one record to each list topic. The functions are the project's own, so that only the engine and
the way of scoring differ: a constant list, or the ONNX scorer in the obvious way, every event by itself with the full
encoding and all videos scored. Settings are the defaults (at-least-once, a checkpoint every 5 s), with snappy as the
worker has it; `--commit-every` only makes the last checkpoint come when the last event is done.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec
from quixstreams import Application

from model_runtime.bundle import Bundle
from model_runtime.scorer import Scorer
from streams import history, state_record, topics
from streams.events import CommentInteraction, VideoView, decode
from streams.history import HistoryConfig
from streams.outputs import lists_of, request_of
from tests.support.constant_scorer import ConstantScorer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--commit-every", type=int, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--states", type=Path, help="what users begin with (msgpack: key to state)")
    options = parser.parse_args()
    scorer: Any = (
        ConstantScorer(100, 50) if options.bundle is None else Scorer(Bundle.open(options.bundle), session_bytes=0)
    )
    config = HistoryConfig()
    initial = (
        {} if options.states is None else msgspec.msgpack.decode(options.states.read_bytes(), type=dict[bytes, bytes])
    )
    app = Application(
        options.bootstrap_servers,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        state_dir=options.data_dir,
        commit_every=options.commit_every,
        producer_extra_config={"compression.type": "snappy"},
        loglevel="WARNING",
    )
    raw: dict[str, Any] = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    out: dict[str, Any] = {"key_serializer": "bytes", "value_serializer": "bytes"}
    outputs = [app.topic(f"{options.group}-{kind}", **out) for kind in ("videos", "comments")]

    def recommend(value: tuple[str, bytes], key: bytes, at: int, headers: Any, state: Any) -> list[bytes]:
        topic, record = value
        now_ms = int(time.time() * 1000)
        event = decode(topic, key, record, now_ms=now_ms)
        assert isinstance(event, VideoView | CommentInteraction)
        stored = state.get_bytes("state") or initial.get(key)
        before = history.EMPTY if stored is None else state_record.decode(stored)
        after = history.apply(before, event, config, partition=0, offset=0)
        state.set_bytes("state", state_record.encode(after))
        assert after.newest is not None
        (lists,) = scorer.render([request_of(after)])
        return [v for _, v in lists_of(event.user_id, after.newest, lists, scorer.version, now_ms)]

    views, touches = (
        app.dataframe(app.topic(name, **raw)).apply(lambda value, name=name: (name, value))
        for name in topics.EVENT_TOPICS
    )
    both = views.concat(touches).apply(recommend, stateful=True, metadata=True)
    for number, topic in enumerate(outputs):
        both.apply(lambda values, number=number: values[number]).to_topic(topic)
    app.run()


if __name__ == "__main__":
    main()
