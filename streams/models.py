"""The life of models in a worker: what is announced is loaded beside what serves, and takes over between two batches.

    heard     an announcement on `model-releases`; the newest of a channel counts, whatever was under way for it
    load      in a thread: fetch, verify, try on the bundle's own sample, warm (`streams.loading`)
    catalog   the new scorer reads the live catalog with a reader of its own, so that it knows what may be recommended
    swap      the rescorer gets another snapshot of models; then users who were active lately get their lists anew

A release that can't serve is refused: logged with what to do, counted, and what serves goes on. The stable version
before the last stays loaded, so that a roll-back needs no loading.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from model_runtime.fetching import FetchError
from model_runtime.scorer import Scorer
from streams.catalog import CatalogReader, Flags
from streams.history import HistoryConfig
from streams.interpreter import collect
from streams.loading import Loader, RefusedError, history_of, remembering
from streams.releases import CANARY, CHANNELS, STABLE, Release, ReleaseReader
from streams.serving import Scores, Serving
from streams.telemetry import Telemetry

log = logging.getLogger(__name__)

RETRY_S = 5.0


class Swaps(Protocol):
    """What scores with the models: `streams.rescoring.Rescorer`."""

    def swap(self, serving: Serving, config: HistoryConfig) -> int:
        """Use these from the next batch on; returns how many users get their lists anew."""


@dataclass(frozen=True)
class Model:
    """A scorer in service, how its users' histories are kept, and the reader of its catalog (None: none is read)."""

    scorer: Scores
    config: HistoryConfig
    catalog: CatalogReader | None

    @property
    def version(self) -> str:
        return self.scorer.version


class Models:
    """What is served, kept in step with what is announced. All methods run on the event loop."""

    def __init__(
        self,
        scorer: Scores,
        config: HistoryConfig,
        flags: Flags | None,
        *,
        read_catalog: Callable[[Flags], CatalogReader],
        telemetry: Telemetry,
    ) -> None:
        """`flags`: what the first scorer's catalog keeps up to date; None: no catalog is read, for no model."""
        self._read_catalog = read_catalog if flags is not None else None
        self._telemetry = telemetry
        self.stable = Model(scorer, config, None if flags is None else read_catalog(flags))
        self.canary: Model | None = None
        self.percent = 0.0
        self._previous: Model | None = None
        self._loader: Loader | None = None
        self._since_ms = 0
        self._rescorer: Swaps | None = None
        self._reader: ReleaseReader | None = None
        self._bootstrap = ""
        self._tasks: dict[str, asyncio.Task[None]] = {}  # what is under way, by channel
        self._closing: deque[asyncio.Task[None]] = deque(maxlen=8)
        telemetry.serves({STABLE: scorer.version}, 0.0)

    @property
    def serving(self) -> Serving:
        """The snapshot to score with."""
        return Serving(self.stable.scorer, self.canary.scorer if self.canary else None, self.percent)

    def follow(self, bootstrap_servers: str, loader: Loader, rescorer: Swaps, since_ms: int) -> None:
        """Follow the announcements once started. Those of `stable` from before `since_ms` don't count."""
        self._loader, self._rescorer, self._since_ms = loader, rescorer, since_ms
        self._bootstrap = bootstrap_servers

    def start(self) -> None:
        """Start reading the catalog, and the announcements if they are followed."""
        if self.stable.catalog is not None:
            self.stable.catalog.start()
        if self._loader is not None:
            self._reader = ReleaseReader(self._bootstrap, self.heard)
            self._reader.start()

    async def close(self) -> None:
        """Stop everything that was started."""
        tasks = (*self._tasks.values(), *self._closing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._reader is not None:
            await self._reader.close()
        for model in (self.stable, self.canary, self._previous):
            if model is not None and model.catalog is not None:
                await model.catalog.close()

    def ready(self) -> bool:
        """Whether the catalog of the stable model is read."""
        return self.stable.catalog is None or self.stable.catalog.loaded.is_set()

    def failure(self) -> BaseException | None:
        """What ended a reader that must not end."""
        for model in (self.stable, self.canary):
            if model is not None and model.catalog is not None and (error := _error_of(model.catalog.task)):
                return error
        return _error_of(self._reader.task) if self._reader is not None else None

    def heard(self, channel: str, release: Release | None) -> None:
        """A channel has another release, or none (None)."""
        if channel not in CHANNELS:
            log.warning("channel %r is served by no worker; channels are %s", channel, ", ".join(CHANNELS))
            return
        if channel == STABLE and (release is None or release.created_ms < self._since_ms):
            return  # somebody has to serve; and what is older than what serves was overtaken by it
        if task := self._tasks.pop(channel, None):
            task.cancel()
        if release is None:
            if self.canary is not None:
                log.info("the canary %s ends", self.canary.version)
                self._swap(self.stable, None, 0.0)
            return
        self._tasks[channel] = asyncio.create_task(self._serve(channel, release), name=f"serve-{channel}")

    async def _serve(self, channel: str, release: Release) -> None:
        """Load a release and let it serve; try again for as long as its address does not answer."""
        while True:
            try:
                model = self._loaded(release) or await self._load(channel, release)
                break
            except RefusedError as error:
                self._refused(channel, release, error.reason, str(error))
                return
            except FetchError as error:
                self._refused(channel, release, "unreachable", f"{error}; trying again in {RETRY_S:.0f} s")
                await asyncio.sleep(RETRY_S)
        if channel == STABLE:
            self._since_ms = release.created_ms
            self._swap(model, self.canary, self.percent)
        else:
            self._swap(self.stable, model, release.percent or 0.0)

    def _loaded(self, release: Release) -> Model | None:
        """The model of a release, if it is at hand."""
        for model in (self.stable, self.canary, self._previous):
            bundle = model.scorer.bundle if model is not None and isinstance(model.scorer, Scorer) else None
            if bundle is not None and (bundle.version, bundle.sha256) == (release.version, release.sha256):
                return model
        return None

    async def _load(self, channel: str, release: Release) -> Model:
        """Raises RefusedError, FetchError."""
        assert self._loader is not None
        log.info("loading %s for channel %s from %s", release.version, channel, release.uri)
        began = time.monotonic()
        scorer = await asyncio.to_thread(self._loader.load, release, self.stable.config)
        catalog = None
        if self._read_catalog is not None:
            catalog = self._read_catalog(scorer.candidates)
            catalog.reports = False  # until it is the stable model's
            catalog.start()
            try:
                loaded = asyncio.create_task(catalog.loaded.wait())
                await asyncio.wait([loaded, catalog.task], return_when=asyncio.FIRST_COMPLETED)
                loaded.cancel()
                if error := _error_of(catalog.task):
                    raise FetchError(f"the catalog could not be read ({error})")
            except BaseException:
                await catalog.close()
                raise
        self._telemetry.model_loading.observe(time.monotonic() - began)
        return Model(scorer, history_of(scorer.bundle), catalog)

    def _swap(self, stable: Model, canary: Model | None, percent: float) -> None:
        before = [model for model in (self.stable, self.canary, self._previous) if model is not None]
        if stable is not self.stable:
            self._previous = self.stable
            for model, reports in ((self.stable, False), (stable, True)):
                if model.catalog is not None:
                    model.catalog.reports = reports
                    model.catalog.report()
        changed = [new for new, old in ((stable, self.stable), (canary, self.canary)) if new is not old]
        self.stable, self.canary, self.percent = stable, canary, percent
        versions = {STABLE: stable.version} | ({CANARY: canary.version} if canary else {})
        kept = [model for model in (stable, canary, self._previous) if model is not None]
        retired = [model for model in before if not any(model is other for other in kept)]
        assert self._rescorer is not None
        users = self._rescorer.swap(self.serving, remembering(model.config for model in kept))
        self._telemetry.serves(versions, percent)
        if changed:
            self._telemetry.model_swaps.inc()
        share = f", {percent:g} % of the users by the canary {canary.version}" if canary else ""
        log.info("serving %s%s; %d users who were active lately get new lists", stable.version, share, users)
        for model in retired:
            self._closing.append(asyncio.get_running_loop().create_task(self._retire(model)))

    async def _retire(self, model: Model) -> None:
        if model.catalog is not None:
            await model.catalog.close()
        loading = any(not task.done() for task in self._tasks.values() if task is not asyncio.current_task())
        if self._loader is not None and isinstance(model.scorer, Scorer) and not loading:
            await asyncio.to_thread(self._loader.forget, model.scorer)
        del model
        await asyncio.to_thread(collect)

    def _refused(self, channel: str, release: Release, reason: str, why: str) -> None:
        self._telemetry.model_refusals.labels(channel, reason).inc()
        goes_on = self.stable.version if channel == STABLE or self.canary is None else self.canary.version
        log.error("refused version %s for channel %s, %s serves on: %s", release.version, channel, goes_on, why)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
