"""A refresh as it is run here: its result is announced to the workers; once, or again and again."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from offline_train.refresh_config import RefreshConfig, RefreshError

if TYPE_CHECKING:
    from model_runtime.registry import Registry
    from offline_train.finetuning_config import Progress
    from offline_train.refresh import Refreshed

log = logging.getLogger(__name__)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def once(
    config: RefreshConfig, bootstrap_servers: str, stage: Callable[[str], None], progress: Callable[[Progress], None]
) -> Refreshed:
    """Run a refresh. Raises RefreshError, whatever it failed of."""
    from offline_train.refresh import refresh
    from streams.releases import ReleaseError, promote

    def release(registry: Registry, version: str) -> None:
        promote(registry, bootstrap_servers, config.channel, version)

    try:
        return refresh(config, release=release, stage=stage, progress=progress)
    except (ReleaseError, ValueError) as error:  # of the log, the bundle and the split are the latter
        raise RefreshError(str(error)) from error


def again_and_again(run: Callable[[], None], period_s: float) -> None:
    """Run every `period_s` seconds, counted from start to start, until SIGTERM or SIGINT. What fails is logged."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.is_set():
        began = time.monotonic()
        try:
            run()
        except RefreshError as error:
            log.error("%s", error)
        stopped.wait(max(0.0, period_s - (time.monotonic() - began)))


def seconds_of(text: str) -> float:
    """The seconds of `6h`, `30m`, `45s` or `1d`. Raises RefreshError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None or float(found[1]) == 0:
        raise RefreshError(f"--every {text}: give a time such as 6h, 30m or 1d")
    return float(found[1]) * _UNITS[found[2]]
