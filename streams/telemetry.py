"""What the worker tells of itself: Prometheus metrics, and health that tells progress from standstill.

GET /metrics   Prometheus text
GET /healthz   200 while there is nothing to do or watermarks move; 503 when there is lag (or none can be told) and
               nothing has moved for `stall_s` seconds, or a record could not be delivered. For liveness probes.
GET /readyz    200 once partitions are assigned, their state is recovered and the catalog is read. For readiness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from model_runtime.sessions import SessionUse

_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
#: After this long with lag and no progress a worker is stalled.
STALL_S = 30.0


class _Sessions(Collector):
    """What scorers keep of users: asked for when metrics are, so that scoring need not tell."""

    def __init__(self, sessions: Callable[[], Mapping[str, SessionUse]]) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        """By version of the models that serve; a version's counters begin when it is loaded."""
        encodings = CounterMetricFamily(
            "lsvcr_encodings",
            "Histories encoded: by an entry (step), for another current video (query), one of the two from its "
            "beginning (restart), or both: of a user who was not kept (fill), or can't be (plain)",
            labels=["version", "how"],
        )
        users = GaugeMetricFamily("lsvcr_sessions", "Users of whom something is kept", labels=["version"])
        room = GaugeMetricFamily("lsvcr_session_room", "Users for whom there is memory", labels=["version"])
        evicted = CounterMetricFamily(
            "lsvcr_session_evictions",
            "Users who had to go for others: where it grows like lsvcr_encodings{how=fill}, give --session-memory more",
            labels=["version"],
        )
        for version, use in self._sessions().items():
            for how, count in use.counts.items():
                encodings.add_metric([version, how], count)
            users.add_metric([version], use.users)
            room.add_metric([version], use.room)
            evicted.add_metric([version], use.evicted)
        yield from (encodings, users, room, evicted)


class Telemetry:
    """Metrics and health of one worker. Event times of old logs don't matter: latencies start at the record's time."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        self.registry = CollectorRegistry()
        self.stall_s = stall_s
        self.lag: Callable[[], int | None] = lambda: 0  # the worker puts the real one here; None: not known yet
        self.catalog_ready: Callable[[], bool] = lambda: True
        self.sessions: Callable[[], Mapping[str, SessionUse]] = dict  # by version; the worker puts the real one here
        self.failure: BaseException | None = None
        self.models: dict[str, str] = {}  # version by channel
        self._assigned: list[int] = []
        self._waiting_for_partitions = True
        self._moved_at = time.monotonic()
        made: dict[str, Any] = {"registry": self.registry}
        self.events = Counter("lsvcr_events", "Event records read", ["topic"], **made)
        self.rejections = Counter("lsvcr_rejected_events", "Records sent to dead-letters", ["topic", "error"], **made)
        self.forwards = Counter("lsvcr_forwarded_events", "Events found on another partition than their user's", **made)
        self.outputs = Counter("lsvcr_recommendations", "Recommendation records confirmed by the broker", **made)
        self.unscorable = Counter("lsvcr_unscorable_users", "Users whose scoring failed", **made)
        self.batch = Histogram(
            "lsvcr_batch_users", "Users scored at once", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), **made
        )
        self.scoring = Histogram("lsvcr_scoring_seconds", "Time of scoring one batch", buckets=_LATENCY_BUCKETS, **made)
        self.latency = Histogram(
            "lsvcr_event_to_recommendation_seconds",
            "From a record's time (set by its producer) to the broker's confirmation of the recommendation",
            buckets=_LATENCY_BUCKETS,
            **made,
        )
        self.redis_writes = Counter("lsvcr_redis_lists", "Lists written to Redis", ["outcome"], **made)
        self.redis_up = Gauge("lsvcr_redis_up", "1 while Redis takes writes", **made)
        self.redis_behind = Gauge(
            "lsvcr_redis_behind_partitions", "Output partitions with lists that Redis may not have yet", **made
        )
        self.catalog = Gauge(
            "lsvcr_catalog_entries", "Entries of the live catalog that can be recommended", ["kind"], **made
        )
        self.catalog_unknown = Counter(
            "lsvcr_catalog_unknown",
            "Catalog entries that training did not know, of a bundle without a student",
            ["kind"],
            **made,
        )
        self.catalog_encoded = Counter(
            "lsvcr_catalog_encoded", "Titles and comments that got a vector after training", ["kind"], **made
        )
        self.catalog_rejected = Counter(
            "lsvcr_catalog_rejected", "Catalog records that break the contract", ["topic"], **made
        )
        self.model_info = Gauge(
            "lsvcr_model_info", "1 for the version that a channel serves", ["channel", "version"], **made
        )
        self.canary_percent = Gauge("lsvcr_canary_percent", "Share of the users that the canary serves", **made)
        self.model_swaps = Counter(
            "lsvcr_model_swaps", "Times that another model took over, or the canary ended", **made
        )
        self.model_refusals = Counter(
            "lsvcr_model_refusals", "Announced releases that were not served", ["channel", "reason"], **made
        )
        self.model_loading = Histogram(
            "lsvcr_model_loading_seconds", "From a release heard to a model that may serve", **made
        )
        self.background_users = Counter(
            "lsvcr_background_users", "Users scored again because the model changed, not because of an event", **made
        )
        self.live_items = Gauge("lsvcr_live_items", "Items that have live counts", ["kind"], **made)
        self.live_published = Counter("lsvcr_live_published", "Records sent to live-signals", **made)
        self.live_received = Counter("lsvcr_live_received", "Records of others taken in from live-signals", **made)
        self.partitions = Gauge("lsvcr_assigned_partitions", "Partitions of this worker", **made)
        lag = Gauge("lsvcr_lag_records", "Event records not yet confirmed (end offset less watermark)", **made)
        lag.set_function(lambda: float("nan") if (records := self.lag()) is None else float(records))
        self.registry.register(_Sessions(lambda: self.sessions()))

    # --- reported by the rescorer -------------------------------------------------------------------------------------

    def took(self, topic: str, records: int, rejected: int, forwarded: int) -> None:
        """A slice was read."""
        self.events.labels(topic).inc(records)
        if forwarded:
            self.forwards.inc(forwarded)

    def rejected(self, topic: str, code: str) -> None:
        """A record goes to dead-letters."""
        self.rejections.labels(topic, code).inc()

    def scored(self, users: int, seconds: float) -> None:
        """A batch was scored (called in the scoring thread)."""
        self.batch.observe(users)
        self.scoring.observe(seconds)

    def recommended(self, arrived_ms: Iterable[int], records: int) -> None:
        """Recommendations are confirmed; `arrived_ms` are the record times of the events that made them necessary."""
        now_ms = time.time() * 1000
        for ms in arrived_ms:
            self.latency.observe(max(0.0, (now_ms - ms) / 1000))
        self.outputs.inc(records)

    def progressed(self) -> None:
        """A watermark moved."""
        self._moved_at = time.monotonic()

    def assigned(self, partitions: Sequence[int]) -> None:
        """The partitions changed. An empty list: a rebalance is under way."""
        self._assigned = list(partitions)
        self._waiting_for_partitions = False if partitions else self._waiting_for_partitions
        self.partitions.set(len(partitions))
        self.progressed()

    def serves(self, versions: dict[str, str], canary_percent: float) -> None:
        """The models changed: version by channel."""
        self.models = versions
        self.model_info.clear()
        for channel, version in versions.items():
            self.model_info.labels(channel, version).set(1)
        self.canary_percent.set(canary_percent)

    def failed(self, error: BaseException) -> None:
        """The worker can't go on."""
        self.failure = error

    # --- asked by probes ----------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """What /healthz answers; `status` is `ok`, `stalled` or `failed`."""
        lag = self.lag()
        idle_s = time.monotonic() - self._moved_at
        status = "ok"
        if self.failure is not None:
            status = "failed"
        elif lag != 0 and idle_s > self.stall_s:
            status = "stalled"
        about = {"status": status, "lag": lag, "seconds_since_progress": round(idle_s, 1), "partitions": self._assigned}
        if self.failure is not None:
            about["error"] = str(self.failure)
        return about

    def ready(self) -> dict[str, Any]:
        """What /readyz answers."""
        catalog = self.catalog_ready()
        ready = bool(self._assigned) and catalog
        return {"ready": ready, "partitions": self._assigned, "catalog": catalog, "models": self.models}

    def web_app(self) -> web.Application:
        """The three endpoints as an aiohttp application."""

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

        async def healthz(_: web.Request) -> web.Response:
            about = self.health()
            return web.json_response(about, status=200 if about["status"] == "ok" else 503)

        async def readyz(_: web.Request) -> web.Response:
            about = self.ready()
            return web.json_response(about, status=200 if about["ready"] else 503)

        app = web.Application()
        app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
        return app
