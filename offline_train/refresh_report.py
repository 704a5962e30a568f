"""The report of a refresh, for machines: what was decided and why, on what data, by which figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from offline_train.corpus import Corpus, Split
from offline_train.evaluation import Result
from offline_train.finetuning import Finetuned
from offline_train.gate import Decision
from offline_train.log import Log
from offline_train.refresh_config import RefreshConfig
from offline_train.refresh_plan import Plan


def report_of(
    plan: Plan,
    config: RefreshConfig,
    outcome: str,
    decision: Decision,
    notes: Sequence[str],
    events: Log,
    corpus: Corpus,
    split: Split,
    finetuned: Finetuned,
    results: Sequence[Result],
    seconds: dict[str, float],
) -> bytes:
    """The report as JSON. `stage_seconds` are of the stages that the process at hand did."""
    fields = ("task", "protocol", "split", "model", "values", "counts", "candidates", "note")
    report = {
        "outcome": outcome,
        "why": decision.why,
        "version": plan.version,
        "serving_at_start": plan.serving,
        "notes": list(notes),
        "decision": decision,
        "plan": plan,
        "config": config,
        "log": {
            "users": len(events.user_ids),
            "videos": len(events.video_ids),
            "comments": len(events.comment_ids),
            "events": events.events,
            "samples": {part: len(getattr(split, part)) for part in ("train", "valid", "test")},
            "valid_ms": split.valid_ms,
            "test_ms": split.test_ms,
        },
        "history": msgspec.structs.asdict(corpus.config),
        "training": asdict(finetuned.config) | {"start": finetuned.start, "best_epoch": finetuned.best_epoch},
        "curve": [asdict(point) for point in finetuned.curve],
        "results": [{name: getattr(result, name) for name in fields} for result in results],
        "stage_seconds": dict(seconds),
    }
    return msgspec.json.format(msgspec.json.encode(report))
