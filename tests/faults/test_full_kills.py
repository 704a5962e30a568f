"""`lsvcr train full`, killed in each of its stages and started again, ends with the metrics of a run left in peace."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from support import tiny_training

pytestmark = [pytest.mark.train, pytest.mark.slow]

SECONDS = 180
CONFIG = """
log: {folder}/log
registry: {registry}
cache: {cache}
llm: {folder}/model
align: {{samples: 64, batch: 8, head_samples: 32, head_epochs: 2, z_samples: 16, replay: 1, text_tokens: 6,
        micro_tokens: 700, checkpoint_steps: 1, threads: 1, draw: {{history: 4, prompt_history: 2}}}}
finetune: {{epochs: 2, batch: 64, threads: 1}}
"""

#: is it time to kill? told what the process has printed, and its cache
When = Callable[[str, Path], bool]


def printed(words: str) -> When:
    return lambda said, cache: words in said


def steps(count: int) -> When:
    """Stage 1 has a checkpoint after so many steps of the language model."""
    return lambda said, cache: any(
        int(path.stem.rsplit("-", 1)[1]) >= count for path in cache.glob("stage1/*/memory-0-*.pt")
    )


KILLS: dict[str, When] = {
    "before stage 1": printed("stage 1 in"),
    "between two steps of stage 1": steps(1),
    "later in stage 1": steps(5),
    "embedding": printed("embedding"),
    "stage 2": printed("training on"),
    "the student": printed("distilling"),
    "live signals": printed("training live signals"),
    "ranking": printed("ranking"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.prepare(tmp_path_factory.mktemp("full-kills"))


def test_killed_in_each_stage_it_ends_the_same(folder: Path) -> None:
    peace = _run(folder, "peace")
    for name, when in KILLS.items():
        assert _run(folder, "killed", when) is None, f"it ended before it was killed: {name}"
    killed = _run(folder, "killed")
    assert peace is not None
    assert killed is not None
    for one in (killed, peace):
        one["metrics"]["student"].pop("seconds")
    assert killed["metrics"] == peace["metrics"]
    assert _arrays(Path(killed["bundle"])) == _arrays(Path(peace["bundle"])), "the same weights, to the last byte"


def _arrays(bundle: Path) -> dict[str, str]:
    """The hash of every file but the manifest, which has the time of day."""
    files = [path for path in bundle.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _run(folder: Path, name: str, when: When | None = None) -> dict | None:
    """The summary of a run, or None if it was killed."""
    path, cache = folder / f"{name}.yaml", folder / f"{name}-cache"
    path.write_text(CONFIG.format(folder=folder, registry=folder / f"{name}-registry", cache=cache))
    said = folder / f"{name}.err"
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "train", "full", "--config", str(path), "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        until = time.monotonic() + SECONDS
        while when is not None and process.poll() is None and not when(said.read_text(), cache):
            assert time.monotonic() < until, said.read_text()[-2000:]
            time.sleep(0.02)
        if when is not None:
            process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=SECONDS)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, said.read_text()[-2000:]
    return json.loads(out)
