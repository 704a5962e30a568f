"""Small models for the same platform, published and announced, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reference_model import Model, make_model
from support.outcome import KINDS
from support.topic_reader import changelog_states, read_topic
from support.traffic import make_events
from support.worker_process import WorkerProcess

from model_runtime.bundle import Bundle
from model_runtime.registry import Registry
from model_runtime.scorer import Scorer
from streams import recommendations
from streams.events import Event
from streams.outputs import request_of
from streams.recommendations import Recommendations

#: the videos of `support.traffic.make_events`, which every model knows
SHARED = [f"video-{i:05d}" for i in range(200)]
HISTORY = {"window": 50, "drop": 16}


def model(mark: str, seed: int) -> Model:
    """A model that knows the platform's videos and, as a mark, some that no other model knows."""
    return make_model(260, 40, window=50, seed=seed, names=[*SHARED, *(f"{mark}-{i}" for i in range(60))])


def publish(registry: Registry, folder: Path, version: str, made: Model, **changes: Any) -> str:
    """Write a bundle and publish it."""
    made.write(folder / version, version=version, **({"history": HISTORY} | changes))
    return registry.publish(folder / version)


def damage(bundle: Bundle, name: str, change: Callable[[bytes], bytes] | None) -> None:
    """Change a file of a bundle, or remove it (None)."""
    file = bundle.path / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))


def not_a_number(made: Model) -> Model:
    """The model, with weights that have diverged."""
    weights = {name: np.full_like(value, np.nan) for name, value in made.weights.items()}
    return Model(made.arrays, made.video_ids, made.comment_ids, weights, made.window)


def worker(bootstrap: str, redis_url: str, folder: Path, registry: Registry, *flags: str) -> WorkerProcess:
    return WorkerProcess(bootstrap, redis_url, folder, flags=("--registry", str(registry.root), *flags))


def serves(process: WorkerProcess) -> dict[str, str]:
    """Version by channel, as the worker says itself."""
    import json

    body = process.get("/readyz")[1]
    return json.loads(body)["models"] if body else {}


def lists(bootstrap: str) -> Iterator[Recommendations]:
    """Every recommendation on the topics, in the order of each user's."""
    for kind in KINDS:
        for record in read_topic(bootstrap, recommendations.TOPIC_OF[kind]):
            yield recommendations.decode(kind, record.value())


def versions_of_users(bootstrap: str) -> dict[str, str]:
    """The version that made each user's last list of videos."""
    return {
        record.key().decode(): recommendations.decode("videos", record.value()).model_version
        for record in read_topic(bootstrap, recommendations.TOPIC_OF["videos"])
    }


def check_made_by_one_model(bootstrap: str, marks: dict[str, str]) -> int:
    """No list has an item that only another model knows, and each last list is exactly its version's own; how many."""
    count = 0
    last: dict[str, Recommendations] = {}
    for record in lists(bootstrap):
        if isinstance(record, recommendations.CommentRecommendations):
            continue
        count += 1
        foreign = {item.id.split("-")[0] for item in record.items} - {"video", marks[record.model_version]}
        assert not foreign, f"a list of {record.model_version} for {record.user_id} has items of {foreign}"
        last[record.user_id] = record
    return count


def check_last_lists(bootstrap: str, registry: Registry) -> None:
    """Each user's last list is what its version gives for the user's state."""
    last = {
        record.key().decode(): recommendations.decode("videos", record.value())
        for record in read_topic(bootstrap, recommendations.TOPIC_OF["videos"])
    }
    states = changelog_states(bootstrap)
    scorers = {version: Scorer(registry.open(version)) for version in {r.model_version for r in last.values()}}
    for user, record in last.items():
        (ranking,) = scorers[record.model_version].score([request_of(states[user])])
        own = dict(zip(ranking.video_ids, ranking.video_scores, strict=True))
        assert len(record.items) == len(own)
        for item, score in zip(record.items, ranking.video_scores, strict=True):
            # Who else was in the batch shows in the last decimal, and may let equals swap places.
            assert abs(item.score - score) < 1e-4, user
            assert abs(own.get(item.id, ranking.video_scores[-1]) - item.score) < 1e-4, user


def some_events(count: int = 600, users: int = 60, seed: int = 0) -> list[Event]:
    return make_events(count, users=users, videos=len(SHARED), seed=seed)


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began
