"""RecBole's SASRec in its own environment, trained for real."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_train.study import recbole

pytestmark = [pytest.mark.train, pytest.mark.slow]

ITEMS, EPOCHS, KILLED_IN = 400, 5, 3


def task(rng: np.random.Generator) -> dict[str, Any]:
    """Sequences in which each item has one successor."""
    made: dict[str, Any] = {"count": np.array(ITEMS)}
    for part, count in (("train", 3000), ("valid", 300), ("test", 200)):
        offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 12, count))])
        items = rng.integers(0, ITEMS, offsets[-1])
        made |= {f"{part}_items": items, f"{part}_offsets": offsets}
        if part != "test":
            made[f"{part}_target"] = (items[offsets[1:] - 1] * 7 + 1) % ITEMS
    return made


def kill_runner(work: Path) -> None:
    """As the kernel does when memory is short: without a warning."""
    for folder in Path("/proc").glob("[0-9]*"):
        command = (folder / "cmdline").read_bytes() if (folder / "cmdline").exists() else b""
        if str(recbole.RUNNER).encode() in command and str(work).encode() in command:
            os.kill(int(folder.name), signal.SIGKILL)


def test_a_training_that_was_killed_ends_with_the_same_vectors_in_another_place_too(tmp_path: Path) -> None:
    given = task(np.random.default_rng(0))
    python = recbole.environment(tmp_path / "peace")
    epochs: list[Mapping[str, Any]] = []
    settings = {"seed": 0, "epochs": EPOCHS}
    whole = recbole.run(given, settings, tmp_path / "peace", epochs.append)
    assert [epoch.get("epoch") for epoch in epochs] == [1, 2, 3, 4, 5, None]
    assert epochs[-1]["best"] > 2 * epochs[0]["valid"]["ndcg@10"]  # it learns

    work = tmp_path / "killed"
    work.mkdir()
    (work / python.parents[1].name).symlink_to(python.parents[1])

    before: list[Mapping[str, Any]] = []

    def told(epoch: Mapping[str, Any]) -> None:
        before.append(epoch)
        with pytest.raises(recbole.RecBoleError, match="another process trains the same"):
            recbole.run(given, settings, work)
        if epoch.get("epoch") == KILLED_IN:
            kill_runner(work)

    with pytest.raises(recbole.RecBoleError, match="ended with -9"):
        recbole.run(given, settings, work, told)
    work = work.rename(tmp_path / "moved")
    again: list[Mapping[str, Any]] = []
    went_on = recbole.run(given, settings, work, again.append)
    assert [(e.get("epoch"), e.get("valid")) for e in again] == [(e.get("epoch"), e.get("valid")) for e in epochs]
    assert again[: KILLED_IN - 1] == before[: KILLED_IN - 1], "seconds included: these were not trained again"
    for name, values in whole.items():
        np.testing.assert_array_equal(went_on[name], values)
    assert not list(work.glob(".sasrec-*")), "nothing of it is left behind"
