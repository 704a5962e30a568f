"""SASRec by RecBole as a row of the tables: trained by RecBole in an environment of its own, ranked by our evaluation.

It gets the views of the training part, stops early on the validation part, and answers every question of the test part
from the last 50 videos of its user. What comes back are vectors, whose dot products are RecBole's own scores.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_train.corpus import Corpus, Samples, Split
from offline_train.finetuning import trainable
from offline_train.log import VIEW
from offline_train.protocols import Ints, Queries, ragged

NAME = "SASRec (RecBole)"
REQUIREMENTS = Path(__file__).with_name("recbole-requirements.txt")
RUNNER = Path(__file__).with_name("recbole_runner.py")
LENGTH = 50
#: what differs from RecBole's defaults in how it is trained
SETTINGS: dict[str, Any] = {"epochs": 300, "stopping_step": 10, "train_batch_size": 2048}

Report = Callable[[Mapping[str, Any]], None]


class RecBoleError(Exception):
    """RecBole could not be installed or failed; the message says where its output is."""


class RecBoleScorer:
    """Scores of a trained SASRec. Videos that it did not know get minus infinity, users without history one tie."""

    task = "video"
    name = NAME

    def __init__(self, vectors: Mapping[str, NDArray[Any]], events: Ints) -> None:
        """`vectors` as `recbole_runner` writes them; `events` [n], ascending: whose histories `users` are of."""
        self._users, self._items, self._known = vectors["users"], vectors["items"], vectors["known"]
        self._events = events

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[n, videos].

        Raises:
            ValueError: a question that the model was not asked beforehand.
        """
        at = np.searchsorted(self._events, queries.event_index)
        if not np.array_equal(self._events[np.minimum(at, len(self._events) - 1)], queries.event_index):
            raise ValueError(f"{NAME} has no answer to some of these questions; it was asked those of the test part")
        return np.where(self._known, self._users[at] @ self._items.T, -np.inf).astype(np.float32)


def recbole_scorer(
    corpus: Corpus, split: Split, seed: int, work: Path, *, threads: int = 1, report: Report = lambda epoch: None
) -> RecBoleScorer:
    """Train one SASRec on the split's training views, unless it was trained before.

    Raises:
        RecBoleError: see there.
    """
    task, events = export(corpus, split)
    return RecBoleScorer(run(task, {"seed": seed, "threads": threads}, work, report), events)


def export(corpus: Corpus, split: Split) -> tuple[dict[str, NDArray[Any]], Ints]:
    """What `recbole_runner` is given, and the events whose histories it is to encode, in the order of the log."""
    samples = corpus.samples
    train = trainable(samples.take(split.train), "video")
    known = np.zeros(len(corpus.log.video_ids), bool)
    known[train.target_video] = True
    valid = trainable(samples.take(split.valid), "video")
    valid = valid.take(known[valid.target_video])
    test = samples.take(split.test)
    test = test.take(test.kind == VIEW)
    task: dict[str, NDArray[Any]] = {"count": np.array(len(known))}
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        if name != "test":
            part = part.take(part.video_end > corpus.video_offsets[part.user])
            task["train_target" if name == "train" else "valid_target"] = part.target_video.astype(np.int64)
        task[f"{name}_items"], task[f"{name}_offsets"] = _histories(corpus, part)
    return task, test.event_index.astype(np.int64)


def run(
    task: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], work: Path, report: Report = lambda epoch: None
) -> dict[str, NDArray[Any]]:
    """Train on a task, or take what the same task, settings and code gave before.

    Args:
        report: called with each epoch (`recbole_runner`), now or as it was then; last with the best one.

    Raises:
        RecBoleError: see there.
    """
    given = json.dumps(SETTINGS | dict(settings), sort_keys=True)
    key = hashlib.sha256(given.encode() + RUNNER.read_bytes() + REQUIREMENTS.read_bytes())
    for name in sorted(task):
        key.update(name.encode() + np.ascontiguousarray(task[name]).tobytes())
    folder = work / f"sasrec-{key.hexdigest()[:12]}"
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        part.mkdir(parents=True, exist_ok=True)  # one that is there was left by a kill, and goes on
        with _alone(part):
            np.savez(part / "task.npz", **task)  # type: ignore[arg-type]
            _train(environment(work), part, given, report)
            (part / "task.npz").unlink()
            shutil.rmtree(part / "checkpoints")
            part.replace(folder)
    else:
        for line in (folder / "epochs.jsonl").read_text().splitlines():
            report(json.loads(line))
    with np.load(folder / "vectors.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def environment(work: Path) -> Path:
    """The Python of RecBole's environment below `work`, made by uv the first time (a copy of PyTorch included).

    Raises:
        RecBoleError: uv is missing, or the installation failed.
    """
    key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = work / f"environment-{key}"
    python, done = folder / "bin" / "python", folder / ".complete"
    if done.exists():
        return python
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if uv is None:
        raise RecBoleError(
            "RecBole needs an environment of its own, made by uv: pip install uv, or use --recbole-seeds 0"
        )
    work.mkdir(parents=True, exist_ok=True)
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(REQUIREMENTS)],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RecBoleError(f"{' '.join(command[:3])} failed:\n{made.stderr.strip()}")
    done.touch()
    return python


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs of the same training would write over each other's checkpoints and epochs.

    Raises:
        RecBoleError: another process trains there.
    """
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecBoleError(
                f"another process trains the same SASRec in {folder}; wait for it, or give another work folder"
            ) from None
        yield


def _train(python: Path, folder: Path, settings: str, report: Report) -> None:
    # -P: else this folder's recbole.py would stand for the package
    command = [str(python), "-P", str(RUNNER), str(folder / "task.npz"), str(folder / "vectors.npz"), settings]
    threads = str(json.loads(settings).get("threads", 1))
    # No path of this project: its packages are of other versions.
    hidden = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # RecBole writes a folder of logs where it stands.
    with (
        (folder / "errors.log").open("wb") as errors,
        (folder / "epochs.jsonl").open("w") as epochs,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=hidden | {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""},
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                epochs.write(line)
                epochs.flush()  # it takes minutes to the next
                report(json.loads(line))
    if process.returncode:
        raise RecBoleError(f"RecBole ended with {process.returncode}; its output is in {folder / 'errors.log'}")


def _histories(corpus: Corpus, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The newest videos of each sample's user before it, laid end to end, and where each begins."""
    first = np.maximum(corpus.video_offsets[samples.user], samples.video_end - LENGTH)
    flat, offsets = ragged(first, samples.video_end)
    return corpus.videos[flat].astype(np.int64), offsets
