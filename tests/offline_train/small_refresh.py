"""A refresh of a small log, as quick as it can be."""

from __future__ import annotations

from pathlib import Path

import msgspec

from model_runtime.registry import Registry
from offline_train.refresh_config import RefreshConfig

TRAIN = {"epochs": 2, "batch": 64, "threads": 1}
STUDENT = {"samples": 2_000, "bits": 10}
GATE = {"fewest": 10}


def config(folder: Path, tmp_path: Path, **changes: object) -> RefreshConfig:
    """Train on the log `folder`; registry and work are folders of `tmp_path`."""
    places = {"archive": str(folder), "registry": str(tmp_path / "registry"), "work": str(tmp_path / "work")}
    return msgspec.convert({**places, "train": TRAIN, "student": STUDENT, "gate": GATE, **changes}, RefreshConfig)


def promote(registry: Registry, version: str) -> None:
    """Release at once, without a canary."""
    registry.promote("stable", version)
