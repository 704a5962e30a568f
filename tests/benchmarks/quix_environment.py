"""The environment that Quix Streams runs in: one of its own, for its confluent-kafka is not the project's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from support.worker_process import REPOSITORY

REQUIREMENTS = Path(__file__).with_name("quix-requirements.txt")
FOLDER = REPOSITORY / ".venv" / "quix"


def python() -> Path:
    """Its interpreter; made with uv when it is not there, or when the requirements have changed."""
    interpreter, mark = FOLDER / "bin" / "python", FOLDER / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        print("  making the environment of Quix Streams ...", flush=True)
        uv = str(Path(sys.executable).with_name("uv"))
        env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER)],
            [uv, "pip", "install", "--quiet", "--python", str(interpreter), "-r", str(REQUIREMENTS)],
        ):
            subprocess.run(command, check=True, env=env)
        mark.write_text(wanted)
    return interpreter


def versions() -> str:
    """What is installed of what matters."""
    names = ("quixstreams", "confluent-kafka")
    script = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {names}), sep=', ')"
    return subprocess.run([python(), "-c", script], check=True, capture_output=True, text=True).stdout.strip()
