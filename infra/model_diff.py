"""Two models beside each other: their lists for the same users, and their metrics on the same log."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from model_runtime.agreement import agreement
from model_runtime.bundle import Bundle
from model_runtime.scorer import Scorer
from streams.history import UserState
from streams.outputs import request_of
from streams.whole_topic import read_states


def compare(
    one: Bundle, other: Bundle, *, bootstrap_servers: str, log_dir: Path | None, users: int, k: int
) -> dict[str, Any]:
    """Agreement of the two models' lists, by kind of item, over the same users for both.

    Users are those of the log at its end, or, without one, those whom the workers know. Everything in a bundle counts
    as alive.

    Raises:
        TopicReadError, LogError: the users can't be read.
    """
    states = read_states(bootstrap_servers) if log_dir is None else _states_of(log_dir, one)
    chosen = sorted(states, key=lambda user: blake2b(user.encode(), digest_size=8).digest())[:users]
    requests = [request_of(states[user]) for user in chosen]
    lists = [Scorer(bundle).score(requests) for bundle in (one, other)]
    found: dict[str, Any] = {"one": one.version, "other": other.version, "users": len(chosen)}
    for kind in ("video", "comment"):
        pairs = [(getattr(a, f"{kind}_ids"), getattr(b, f"{kind}_ids")) for a, b in zip(*lists, strict=True)]
        found[f"{kind}s"] = msgspec.to_builtins(agreement(pairs, k))
    return found


def metrics(bundles: Sequence[Bundle], log_dir: Path) -> list[dict[str, Any]]:
    """NDCG@10 of each bundle, as workers serve it, on a log's test part; `warnings` where one has seen that part.

    Raises:
        LogError, ValueError: the log can't be read, or holds too little.
    """
    from offline_train.corpus import Corpus, temporal_split
    from offline_train.deployed import check_horizon, history_config
    from offline_train.evaluation import evaluate
    from offline_train.log import Log
    from offline_train.served import served_scorers

    log = Log.read(log_dir, history_config(bundles[0]))
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    warnings = [warning for bundle in bundles if (warning := check_horizon(bundle, split))]
    scorers = [scorer for bundle in bundles for scorer in served_scorers(bundle, log, corpus, split)]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for result in evaluate(log, corpus, split, scorers):
        if "ndcg@10" in result.values:
            rows.setdefault((result.task, result.protocol), {})[result.model] = result.values["ndcg@10"]
    return [
        {"task": task, "protocol": protocol, "ndcg@10": values, **({"warnings": warnings} if warnings else {})}
        for (task, protocol), values in rows.items()
    ]


def _states_of(log_dir: Path, bundle: Bundle) -> dict[str, UserState]:
    from offline_train.corpus import final_states
    from offline_train.deployed import history_config
    from offline_train.log import Log

    return final_states(Log.read(log_dir, history_config(bundle)))
