"""The small simulated platform that the demo's bundle was trained on, and whose users go on living in the demo."""

from __future__ import annotations

from pathlib import Path

from offline_train.sources.simulator import SimulatorConfig

PLATFORM = SimulatorConfig(seed=7, users=600, videos=900, comments=4_000, days=30, interactions=40_000)
BUNDLE = Path(__file__).with_name("bundle")
