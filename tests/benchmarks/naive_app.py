"""The naive app: a stock Faust agent that does the worker's job the way one writes it first.

Per event: read the user's state from the table, apply the event, encode both histories with PyTorch in eager mode (one
user, one thread), score all videos and sort them all, leave out what the user must not get, the same for the comments
of the video that the user is on, write the state, send both lists as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import faust
import msgspec
import torch

from model_runtime.bundle import Bundle
from model_runtime.ids import video_digest
from offline_train.sr import SRConfig, SREncoder
from streams import history, state_record, topics
from streams.events import CommentInteraction, VideoView, decode
from streams.history import HistoryConfig, UserState
from tests.benchmarks.stock_agent import RAW, stock_app


class NaiveModel:
    """The model in PyTorch, one user at a time."""

    def __init__(self, bundle: Bundle, weights: Path) -> None:
        config = SRConfig(videos=1, dim=bundle.dim, text_dim=bundle.dim, window=bundle.window, feedforward=256)
        self._encoder = SREncoder(config).eval()
        self._encoder.load_state_dict(torch.load(weights, weights_only=True))
        self._tables = {
            name: torch.tensor(bundle.arrays[name])
            for name in (
                "video_id_vectors",
                "video_title_vectors",
                "video_comment_vectors",
                "video_vectors",
                "comment_vectors",
            )
        }
        self._videos, self._comments = bundle.video_ids.tolist(), bundle.comment_ids.tolist()
        self._video_at = {name: i for i, name in enumerate(self._videos)}
        self._comment_at = {name: i for i, name in enumerate(self._comments)}
        self._digests = [video_digest(name) for name in self._videos]
        self._under: dict[int, list[int]] = {}
        for comment, video in enumerate(bundle.arrays["comment_video"].tolist()):
            self._under.setdefault(video, []).append(comment)

    @torch.inference_mode()
    def rank(self, state: UserState) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """The best 100 videos and the best 50 comments under the video that the user is on, with their scores."""
        tables, at = self._tables, self._video_at
        videos = torch.tensor([at[v] for v in state.video.videos], dtype=torch.long)[None]
        under = torch.tensor([at[v] for v in state.comment.videos], dtype=torch.long)[None]
        comments = torch.tensor([self._comment_at[c] for c in state.comment.comments], dtype=torch.long)[None]
        assert state.newest is not None
        current = at[state.newest.video_id]
        ids, titles = tables["video_id_vectors"], tables["video_title_vectors"]
        video, comment = self._encoder(
            ids[videos], titles[videos], tables["video_comment_vectors"][videos], torch.tensor([videos.shape[1]]),
            ids[under], titles[under], tables["comment_vectors"][comments], torch.tensor([under.shape[1]]),
            (ids[current] + titles[current])[None],
        )  # fmt: skip
        barred = {*state.seen.videos, *state.hated.videos}
        own = {*state.video.videos, *state.comment.videos, state.newest.video_id}
        scores, order = (tables["video_vectors"] @ video[0]).sort(descending=True)
        best = []
        for score, i in zip(scores.tolist(), order.tolist(), strict=True):
            if self._videos[i] not in own and self._digests[i] not in barred:
                best.append((self._videos[i], round(score, 5)))
                if len(best) == 100:
                    break
        mine = [i for i in self._under.get(current, []) if self._comments[i] not in state.comment.comments]
        found = zip((tables["comment_vectors"][mine] @ comment[0]).tolist(), mine, strict=True)
        return best, [(self._comments[i], round(score, 5)) for score, i in sorted(found, reverse=True)[:50]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--states", type=Path, required=True, help="what users begin with (msgpack: key to state)")
    options = parser.parse_args()
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(level="WARNING")
    torch.set_num_threads(1)
    model, config = NaiveModel(Bundle.open(options.bundle), options.weights), HistoryConfig()
    initial = msgspec.msgpack.decode(options.states.read_bytes(), type=dict[bytes, bytes])
    app, table = stock_app("naive", options)
    outputs = [app.topic(f"naive-{kind}", **RAW) for kind in ("videos", "comments")]

    @app.agent(app.topic(*topics.EVENT_TOPICS, **RAW))
    async def recommend(stream: Any) -> None:
        async for record in stream.events():
            now_ms = int(time.time() * 1000)
            event = decode(record.message.topic, record.key, record.value, now_ms=now_ms)
            assert isinstance(event, VideoView | CommentInteraction)
            stored = table.get(record.key) or initial.get(record.key)
            state = history.apply(history.EMPTY if stored is None else state_record.decode(stored), event, config)
            table[record.key] = state_record.encode(state)
            about = {"schema_version": 1, "user_id": event.user_id, "generated_ms": now_ms, "event": event.event_id}
            for topic, found in zip(outputs, model.rank(state), strict=True):
                items = [{"id": id_, "score": score} for id_, score in found]
                await topic.send(key=record.key, value=json.dumps({**about, "items": items}).encode())

    faust.Worker(
        app, loglevel="WARNING", quiet=True, override_logging=False, redirect_stdouts=False
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
