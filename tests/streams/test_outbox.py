"""What the producer is told."""

from __future__ import annotations

from typing import Any

import pytest

from streams import outbox
from streams.outbox import LINGER_MS, Outbox


def test_what_the_operator_chose_reaches_the_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(outbox, "Producer", told.append)
    Outbox("localhost:9092", lambda delivery: None)
    Outbox("localhost:9092", lambda delivery: None, compression="gzip", linger_ms=0)
    assert [(one["linger.ms"], one["compression.type"]) for one in told] == [(LINGER_MS, "lz4"), (0, "gzip")]
    assert all(one["enable.idempotence"] for one in told)
