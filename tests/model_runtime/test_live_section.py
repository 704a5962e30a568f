"""A bundle's part for live signals: what is written is read, and what can't be used is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from model_runtime.blend import Blend
from model_runtime.live_section import LiveItems, LiveSection, LiveTask
from model_runtime.manifest import BundleError

COUNTS = {"video": 3, "comment": 2}
BLEND = Blend(["sr", "recent_0"], mean=[0.0, 1.0], scale=[1.0, 2.0], linear=[0.5, 1.5])
TASK = LiveTask([3.6e6, 8.64e7], True, BLEND)


def items(count: int) -> LiveItems:
    return LiveItems(np.arange(count, dtype=np.int64) + 1_700_000_000_000, np.arange(count, dtype=np.int64))


SECTION = LiveSection({"video": TASK}, {kind: items(count) for kind, count in COUNTS.items()})


def read(folder: Path, section: LiveSection, counts: dict[str, int] = COUNTS) -> LiveSection:
    (folder / "live.npz").write_bytes(section.to_bytes())
    return LiveSection.load(folder / "live.npz", counts)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, SECTION)
    assert found.tasks == SECTION.tasks
    for kind, count in COUNTS.items():
        assert np.array_equal(found.items[kind].since_ms, items(count).since_ms)
        assert np.array_equal(found.items[kind].base, items(count).base)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (msgspec.structs.replace(TASK, half_lives_ms=[]), "half-lives"),
        (msgspec.structs.replace(TASK, half_lives_ms=[-1.0]), "half-lives"),
        (msgspec.structs.replace(TASK, blend=msgspec.structs.replace(BLEND, linear=[1.0])), "lengths"),
        (msgspec.structs.replace(TASK, blend=msgspec.structs.replace(BLEND, features=["sr", "order"])), "'order'"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(tmp_path: Path, task: LiveTask, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        read(tmp_path, LiveSection({"video": task}, SECTION.items))


def test_items_of_another_catalog_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"comment_since_ms is int64 \[2\]"):
        read(tmp_path, SECTION, {"video": 3, "comment": 5})


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "live.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BundleError, match="export the model again"):
        LiveSection.load(tmp_path / "live.npz", COUNTS)
