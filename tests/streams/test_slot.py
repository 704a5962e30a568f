"""One worker per slot and machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.slot import Slot, SlotTakenError


def test_a_slot_is_taken_by_one_worker_at_a_time(tmp_path: Path) -> None:
    with Slot(tmp_path, "lsvcr", "0") as slot, Slot(tmp_path, "lsvcr", "1") as other:
        assert slot.instance_id != other.instance_id
        with pytest.raises(SlotTakenError, match=r"already running.*--worker-id"), Slot(tmp_path, "lsvcr", "0"):
            pass
    with Slot(tmp_path, "lsvcr", "0"):
        pass
