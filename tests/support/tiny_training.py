"""What `lsvcr train full` needs, small enough to train in seconds."""

from __future__ import annotations

import sys
from pathlib import Path


def prepare(folder: Path) -> Path:
    """A log with something to learn in `folder/log`, and a tiny language model in `folder/model`. Needs PyTorch."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "offline_train"))
    import tastes
    import tiny_llm

    (folder / "log").mkdir()
    tastes.write(folder / "log")
    tiny_llm.make(folder / "model")
    return folder
