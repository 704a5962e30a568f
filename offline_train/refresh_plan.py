"""What a refresh is about: decided once at its start, so that a run that goes on after a kill does the same."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from model_runtime.files import replace_file
from model_runtime.registry import Registry
from offline_train.archived import archived_until
from offline_train.refresh_config import RefreshConfig, RefreshError
from offline_train.stages import Work, room

log = logging.getLogger(__name__)

_DAY_MS = 24 * 3600 * 1000
_RELEASED = "released"


class Plan(Struct, frozen=True):
    """What a run is about, decided once at its start."""

    run: str
    created_ms: int
    config: str  #: digest of the configuration
    until: dict[str, dict[int, int]]  #: topic, partition: the offset to stop before
    since: str  #: first date of events, empty: all
    serving: str | None  #: the version that served at the start

    @property
    def offsets(self) -> dict[tuple[str, int], int]:
        return {(topic, partition): end for topic, ends in self.until.items() for partition, end in ends.items()}

    @property
    def version(self) -> str:
        """The name of the bundle that the run makes."""
        return f"{datetime.fromtimestamp(self.created_ms / 1000, UTC):%Y%m%dT%H%M%SZ}-{self.run[:8]}"


def plan_of(config: RefreshConfig, work: Work, registry: Registry) -> Plan:
    """The plan of the run that was under way if it is still about the same, else a new one."""
    work.sweep()
    serving = registry.serves(config.channel)
    file = work.current / "run.json"
    if file.exists():
        try:
            plan = msgspec.json.decode(file.read_bytes(), type=Plan)
        except msgspec.DecodeError as error:
            raise RefreshError(f"{file}: {error}; remove {work.current} to start over") from None
        # A run that was killed after its release finds its own version serving.
        if plan.config == config.digest() and serving in (plan.serving, plan.version):
            log.info("going on with refresh %s", plan.run)
            return plan
        log.warning(
            "the configuration or the serving model has changed since refresh %s began: starting over", plan.run
        )
    work.clear()
    now_ms = int(time.time() * 1000)
    until: dict[str, dict[int, int]] = {}
    for (topic, partition), end in archived_until(config.archive).items():
        until.setdefault(topic, {})[partition] = end
    since = ""
    if config.window_days is not None:
        since = f"{datetime.fromtimestamp((now_ms - config.window_days * _DAY_MS) / 1000, UTC):%Y-%m-%d}"
    plan = Plan(uuid.uuid4().hex, now_ms, config.digest(), until, since, serving)
    work.note("run.json", msgspec.json.encode(plan))
    return plan


def was_released(work: Work) -> bool:
    """Whether this run has released its version already (an operator may have gone back since)."""
    return (work.current / _RELEASED).exists()


def note_release(work: Work) -> None:
    """The version is released: not again, should the run be killed before it ends."""
    work.note(_RELEASED, b"")


def done(work: Work) -> dict[tuple[str, int], int]:
    """Up to where the last refresh that ended had read."""
    file = work.folder / "last.json"
    return msgspec.json.decode(file.read_bytes(), type=Plan).offsets if file.exists() else {}


def remember(work: Work, plan: Plan) -> None:
    """The run has ended: the next one counts what is new from here."""
    with room(work.folder):
        replace_file(work.folder / "last.json", msgspec.json.encode(plan))
