"""The gate: a candidate is published only if it is no worse than what serves, on the same held-out period."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from msgspec import Struct

from offline_train.comparison import compare
from offline_train.evaluation import Result
from offline_train.refresh_config import GateConfig

CANDIDATE, SERVING = "candidate", "serving"


class Judged(Struct, frozen=True):
    """One task: what both models have, and whether the candidate passes.

    difference, error: mean over the targets and its standard error, candidate less serving model.
    """

    task: str
    protocol: str
    targets: int
    candidate: float | None
    serving: float | None
    difference: float | None
    error: float | None
    passes: bool
    why: str


class Decision(Struct, frozen=True):
    """Whether the candidate is published, and why."""

    passes: bool
    why: str
    metric: str
    margin: float
    tasks: list[Judged]


def judge(results: Sequence[Result], config: GateConfig) -> Decision:
    """Compare the results of both models, task by task; without any of a serving model the candidate passes."""
    tasks = [_task(results, task, config) for task in dict.fromkeys(result.task for result in results)]
    failed = [judged for judged in tasks if not judged.passes]
    if failed:
        why = "; ".join(judged.why for judged in failed)
    elif not any(judged.candidate is not None for judged in tasks):
        return Decision(False, "nothing could be measured: the held-out period is too short", *_of(config), tasks)
    elif all(judged.serving is None for judged in tasks):
        why = "nothing serves that it could be compared with"
    else:
        why = "; ".join(judged.why for judged in tasks)
    return Decision(not failed, why, *_of(config), tasks)


def _of(config: GateConfig) -> tuple[str, float]:
    return config.metric, config.margin


def _task(results: Sequence[Result], task: str, config: GateConfig) -> Judged:
    mine = [result for result in results if result.task == task]
    by_protocol = {(result.protocol, result.model): result for result in mine}
    protocol = "as-of" if any(result.protocol == "as-of" for result in mine) else "full"
    one = by_protocol[protocol, CANDIDATE]
    other = by_protocol.get((protocol, SERVING))
    targets = one.counts["ranked"]
    if targets < config.fewest:
        why = f"{task}s: {targets} targets are too few to judge by"
        return Judged(task, protocol, targets, None, None, None, None, True, why)
    value = one.values[config.metric]
    if not isfinite(value):
        why = f"{task}s: the candidate's {config.metric} is not a number: it gives no scores"
        return Judged(task, protocol, targets, None, None, None, None, False, why)
    if other is None:
        why = f"{task}s: {config.metric} {value:.4f}, with nothing to compare"
        return Judged(task, protocol, targets, value, None, None, None, True, why)
    before = other.values[config.metric]
    metric, _, k = config.metric.partition("@")
    verdict = compare([one], [other], metric, int(k))
    passes = value >= before * (1 - config.margin)
    words = "is no worse than" if passes else "is worse than"
    why = (
        f"{task}s: {config.metric} {value:.4f} {words} the serving model's {before:.4f} less {config.margin:.0%} "
        f"({protocol}, {targets} targets, difference {verdict.difference:+.4f} ± {verdict.error:.4f})"
    )
    return Judged(task, protocol, targets, value, before, verdict.difference, verdict.error, passes, why)
