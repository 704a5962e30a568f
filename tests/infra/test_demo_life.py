"""The demo of a model's life, by its command: everything happens, and is told and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.whole_path import lsvcr

pytest.importorskip("torch")

pytestmark = [pytest.mark.integration, pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_model_lives_through_all_of_it(tmp_path: Path) -> None:
    picture = tmp_path / "life.png"
    told = json.loads(lsvcr("demo", "--life", "--data-dir", tmp_path / "data", "--picture", picture, "--rate", "30"))
    first, second = told["published"]
    assert set(told["lists_by_version"]) == {first, second}
    assert told["users_with_events"] <= told["users_with_video_recommendations"]
    assert told["rollback_s"] < 5
    assert 0 < told["a_video_takes_off"]["share"] <= 1
    assert told["latency_ms_near_a_swap"]["samples"] > 0
    assert len(told["chapters_s"]) == 9
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "data").iterdir()) == []  # it cleans up
