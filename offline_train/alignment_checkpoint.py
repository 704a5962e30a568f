"""Stage 1 on disk, so that a run that was killed goes on to the same result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offline_train.processes import place, wait

CHECKPOINT = "stage1.pt"


def write(folder: Path, step: int, state: dict[str, Any], memories: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Keep the state after a step: the first process writes `state`, each its own memories.

    Memories first, under the step's number: a kill at any point leaves a checkpoint with its own memories.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, _ = place()
    _write(list(memories), _memories(folder, rank, step))
    wait()
    if rank == 0:
        _write(state, folder / CHECKPOINT)
    wait()
    for path in folder.glob(f"memory-{rank}-*.pt"):
        if path != _memories(folder, rank, step):
            path.unlink()


def read(folder: Path, key: str) -> dict[str, Any] | None:
    """The state that `folder` holds; None if there is none.

    Raises:
        ValueError: it is of a run with another key.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if saved["key"] != key:
        raise ValueError(f"{path} is of another configuration, log or language model; name another folder")
    return saved


def read_memories(folder: Path, step: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """This process's memories after a step."""
    path = _memories(folder, place()[0], step)
    rows: list[tuple[Tensor, Tensor]] = torch.load(path, map_location=device, weights_only=True)
    return rows


def _memories(folder: Path, rank: int, step: int) -> Path:
    return folder / f"memory-{rank}-{step}.pt"


def _write(value: Any, path: Path) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(value, scratch)
    os.replace(scratch, path)
