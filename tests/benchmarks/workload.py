"""What the benchmarks of the whole worker run on: a model of a big catalog, users with full histories, their events.

The model has the published size (d = 64, two layers, windows of 50), random weights, the vectors of
`tests/support/trained_vectors.py`, and 11-character ids. It is made once and kept in a folder for temporary files.
Every user has both histories full (35 to 50 entries, as windows that drop 16 at once have) and 80 seen videos.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from support import trained_vectors
from support.random_sr import random_encoder

from model_runtime.bundle import write_bundle
from model_runtime.ids import video_digest
from model_runtime.step_weights import StepWeights
from streams.events import CommentInteraction, Event, VideoView
from streams.history import Newest, Recent, UserState, Window, event_digest
from streams.topics import COMMENT_INTERACTIONS, VIDEO_VIEWS, partition_of

#: one encoded record: topic, partition, key, value
Record = tuple[str, int, bytes, bytes]

WINDOW, DROP, DIM = 50, 16, 64
VIDEOS = 100_000
COMMENTS = 3  #: of each video
#: Bundles of another recipe are other bundles.
_RECIPE = 2
_CACHE = Path(os.environ.get("LSVCR_BENCH_CACHE", Path(tempfile.gettempdir()) / f"lsvcr-bench-{os.getuid()}"))


def video_id(number: int) -> str:
    """11 characters."""
    return f"v{number:010d}"


def comment_id(number: int) -> str:
    """11 characters."""
    return f"c{number:010d}"


def bundle(videos: int = VIDEOS) -> Path:
    """The folder of a bundle with so many videos and three times as many comments, made if it isn't there yet.

    Comment i is under video `i % videos`, so each video has three.
    """
    made = _CACHE / f"bundle-{_RECIPE}-{videos}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            began = time.monotonic()
            print(f"  making a bundle of {videos:,} videos ...", flush=True)
            half = made.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            _write(half, videos)
            half.rename(made)
            print(f"  made in {time.monotonic() - began:.0f} s, kept in {made}", flush=True)
    return made


def weights() -> Path:
    """The encoder's weights for PyTorch (`torch.save` of a state dict)."""
    import torch

    path = _CACHE / f"encoder-{_RECIPE}.pt"
    if not path.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        torch.save(random_encoder(window=WINDOW, dim=DIM, feedforward=256)[0].state_dict(), path)
    return path


def _graphs() -> tuple[bytes, dict[str, bytes], StepWeights]:
    from offline_train.export import compiled_weights, encoder_onnx, steps_onnx

    encoder, config = random_encoder(window=WINDOW, dim=DIM, feedforward=256)
    return encoder_onnx(encoder, config), steps_onnx(encoder, config), compiled_weights(encoder, config)


def _write(folder: Path, videos: int) -> None:
    rng = np.random.default_rng(0)
    comments = COMMENTS * videos
    both = trained_vectors.videos(videos)
    ids = both / 2 + (rng.standard_normal(both.shape, dtype=np.float32) / 16)
    texts = rng.standard_normal((comments, DIM), dtype=np.float32)
    encoder, steps, step_weights = _graphs()
    write_bundle(
        folder,
        model={"dim": DIM, "window": WINDOW},
        history={"window": WINDOW, "drop": DROP},
        arrays={
            "video_id_vectors": ids,
            "video_title_vectors": both - ids,
            "video_comment_vectors": texts[:videos] / 8,
            "video_vectors": both,
            "comment_vectors": texts / np.linalg.norm(texts, axis=1, keepdims=True),
            "comment_video": np.arange(comments, dtype=np.int32) % videos,
        },
        ids={
            "video_ids": [video_id(i) for i in range(videos)],
            "comment_ids": [comment_id(i) for i in range(comments)],
        },
        encoder=encoder,
        steps=steps,
        step_weights=step_weights,
    )


class Users:
    """Users with histories of given lengths, and the events that they make one after another.

    `length`: None for full histories, a number, or a function that draws one.
    """

    def __init__(
        self,
        count: int,
        *,
        videos: int = VIDEOS,
        length: int | Callable[[random.Random], int] | None = None,
        seed: int = 0,
    ) -> None:
        self.count, self.videos = count, videos
        self._length, self._seed = length, seed
        self._random = random.Random(seed)
        self._made = 0
        self._start_ms = int(time.time() * 1000) - 6 * 3_600_000

    def name(self, number: int) -> str:
        return f"user{self._seed}-{number:07d}"

    def states(self) -> Iterator[tuple[bytes, UserState]]:
        """Key and state of every user before the first event."""
        rng = random.Random(f"states {self._seed}")
        for number in range(self.count):
            yield self.name(number).encode(), self._state(rng, number)

    def _state(self, rng: random.Random, number: int) -> UserState:
        lengths = [self._drawn(rng) for _ in range(2)]
        ends = self._start_ms - 1_000_000
        times = [[ends - 60_000 * (length - i) for i in range(length)] for length in lengths]
        viewed = [rng.randrange(self.videos) for _ in range(lengths[0])]
        under = [rng.randrange(self.videos) for _ in range(lengths[1])]
        seen = sorted({video_digest(video_id(v)) for v in (*viewed, *under)})
        while self._length is None and len(seen) < 80:
            seen.append(video_digest(video_id(rng.randrange(self.videos))))
        seen = sorted(set(seen))[:80]
        last = event_digest(f"before-{number}")
        current = video_id(viewed[-1])
        return UserState(
            Window(
                array("q", times[0]), array("Q", map(rng.getrandbits, [64] * len(viewed))), [*map(video_id, viewed)]
            ),
            Window(
                array("q", times[1]),
                array("Q", map(rng.getrandbits, [64] * len(under))),
                [video_id(v) for v in under],
                [comment_id(v + self.videos * rng.randrange(COMMENTS)) for v in under],
            ),
            Recent(array("I", [ends // 1000] * len(seen)), array("I", seen)),
            Recent(),
            Newest(ends, last, VIDEO_VIEWS, 0, 0, f"before-{number}", current),
        )

    def _drawn(self, rng: random.Random) -> int:
        if self._length is None:
            return rng.randint(WINDOW - DROP + 1, WINDOW)
        return self._length(rng) if callable(self._length) else min(self._length, WINDOW)

    def made(self) -> list[Event]:
        """All events so far, made once more."""
        return (
            Users(self.count, videos=self.videos, length=self._length, seed=self._seed)._from(self).events(self._made)
        )

    def _from(self, other: Users) -> Users:
        self._start_ms = other._start_ms
        return self

    def events(self, count: int) -> list[Event]:
        """The next events: each user in turn (in one order, always the same), 80 % views, 20 % comments, all engaged.

        So two events of one user are always `self.count` events apart.
        """
        made: list[Event] = []
        for _ in range(count):
            number, ts_ms = self._made, self._start_ms + self._made * 2
            user, video = self.name(number * 7919 % self.count), self._random.randrange(self.videos)
            if self._random.random() < 0.8:
                made.append(VideoView(f"e{self._seed}-{number}", user, video_id(video), ts_ms, 60_000, 60_000))
            else:
                under = comment_id(video + self.videos * self._random.randrange(COMMENTS))
                made.append(CommentInteraction(f"e{self._seed}-{number}", user, video_id(video), under, ts_ms, "like"))
            self._made += 1
        return made


def people(rng: random.Random) -> int:
    """Lengths of histories as people have them: many short ones, few full ones."""
    return min(WINDOW, 1 + int(rng.expovariate(1 / 12)))


def records(log: Sequence[Event], partitions: int) -> list[Record]:
    """Events as records for the partitions that they belong on."""
    encode = msgspec.json.Encoder().encode
    made = []
    for event in log:
        key = event.user_id.encode()
        topic = VIDEO_VIEWS if isinstance(event, VideoView) else COMMENT_INTERACTIONS
        made.append((topic, partition_of(key, partitions), key, encode(event)))
    return made
