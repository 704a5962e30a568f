"""A batch of users through the models that serve them. Runs in the scoring thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from model_runtime.scorer import Rendered, Request
from streams.outputs import request_of
from streams.pending import Pending
from streams.serving import Scores, Serving
from streams.telemetry import Telemetry

log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """A user's lists, and the one version that made it."""

    lists: Rendered
    version: str


def score(batch: Sequence[Pending], serving: Serving, telemetry: Telemetry) -> list[Scored]:
    """What to recommend to each user of a batch, in their order; never raises for a user that can't be scored."""
    requests = [request_of(pending.state, pending.user_id) for pending in batch]
    began = time.perf_counter()
    scored: dict[int, Scored] = {}
    for model, places in serving.groups([pending.key for pending in batch]):
        lists = _rendered(model, [requests[i] for i in places], [batch[i] for i in places], telemetry)
        scored.update((i, Scored(one, model.version)) for i, one in zip(places, lists, strict=True))
    telemetry.scored(len(batch), time.perf_counter() - began)
    return [scored[i] for i in range(len(batch))]


def _rendered(model: Scores, requests: list[Request], users: Sequence[Pending], telemetry: Telemetry) -> list[Rendered]:
    try:
        return model.render(requests)
    except Exception:
        log.exception("scoring a batch of %d users failed; trying them one by one", len(users))
        return [_one(model, request, user, telemetry) for request, user in zip(requests, users, strict=True)]


def _one(model: Scores, request: Request, user: Pending, telemetry: Telemetry) -> Rendered:
    """A user that can't be scored gets an empty list and a log line, and the stream goes on."""
    try:
        return model.render([request])[0]
    except Exception:
        log.exception("user %r can't be scored; publishing empty lists", user.user_id)
        telemetry.unscorable.inc()
        return Rendered(b"[]", request.current_video, b"[]")
