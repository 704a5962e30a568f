"""Health tells progress from standstill."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from model_runtime.sessions import SessionUse
from streams import telemetry as module
from streams.telemetry import Telemetry


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def test_lag_without_progress_is_a_stall_and_progress_ends_it(clock: Clock) -> None:
    telemetry = Telemetry(stall_s=30)
    telemetry.lag = lambda: 5
    telemetry.assigned([0])
    assert telemetry.health()["status"] == "ok"
    clock.now += 31
    assert telemetry.health()["status"] == "stalled"
    telemetry.progressed()
    assert telemetry.health()["status"] == "ok"


def test_an_idle_worker_is_healthy_for_ever(clock: Clock) -> None:
    telemetry = Telemetry(stall_s=30)
    clock.now += 1e6
    assert telemetry.health()["status"] == "ok"


def test_a_lag_that_can_not_be_told_is_no_health(clock: Clock) -> None:
    telemetry = Telemetry(stall_s=30)
    telemetry.lag = lambda: None
    clock.now += 31
    assert telemetry.health()["status"] == "stalled"


def test_endpoints() -> None:
    async def ask() -> list[tuple[int, str]]:
        telemetry = Telemetry()
        async with TestClient(TestServer(telemetry.web_app())) as client:
            answers = []

            async def get(path: str) -> None:
                answer = await client.get(path)
                answers.append((answer.status, await answer.text()))

            await get("/readyz")
            telemetry.assigned([0, 1])
            telemetry.took("video-views", 7, 1, 2)
            telemetry.rejected("video-views", "not-json")
            telemetry.sessions = lambda: {"v1": SessionUse(3, 5, 2, {"fill": 5, "step": 40})}
            await get("/readyz")
            await get("/healthz")
            telemetry.failed(RuntimeError("the broker refused a record"))
            await get("/healthz")
            await get("/metrics")
            return answers

    not_ready, ready, healthy, failed, metrics = asyncio.run(ask())
    assert [not_ready[0], ready[0], healthy[0], failed[0], metrics[0]] == [503, 200, 200, 503, 200]
    assert "the broker refused a record" in failed[1]
    assert 'lsvcr_events_total{topic="video-views"} 7.0' in metrics[1]
    assert 'lsvcr_rejected_events_total{error="not-json",topic="video-views"} 1.0' in metrics[1]
    assert "lsvcr_forwarded_events_total 2.0" in metrics[1]
    assert 'lsvcr_encodings_total{how="step",version="v1"} 40.0' in metrics[1]
    assert 'lsvcr_sessions{version="v1"} 3.0' in metrics[1]
    assert 'lsvcr_session_room{version="v1"} 5.0' in metrics[1]
    assert 'lsvcr_session_evictions_total{version="v1"} 2.0' in metrics[1]
