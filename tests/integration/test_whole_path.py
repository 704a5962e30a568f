"""From a simulated log to recommendations: trained, published and served by the commands that a person types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.outcome import check_redis, check_states, check_triggers
from support.whole_path import (
    Outcome,
    Removed,
    TrainedLog,
    check_origins,
    check_promises,
    check_scores,
    lsvcr,
    wait_until_catalog_read,
    wait_until_committed,
)
from support.worker_process import WorkerProcess

from infra.local.stack import LocalStack
from model_runtime.scorer import Scorer
from streams.events import CommentInteraction
from streams.history import engages
from streams.publisher import Publisher
from streams.topics import COMMENT_INTERACTIONS, COMMENTS, VIDEO_VIEWS, VIDEOS

pytestmark = [pytest.mark.integration, pytest.mark.train]

COMPARED = 200


def test_a_log_becomes_recommendations_that_equal_the_trainers(own_stack: LocalStack, tmp_path: Path) -> None:
    lsvcr(
        *("simulate", "--out", tmp_path / "log", "--users", "350", "--videos", "300", "--comments", "1500"),
        *("--interactions", "7000", "--topics", "8"),
    )
    trained = TrainedLog.fit(
        *(tmp_path / "log", tmp_path / "registry"),
        *("--epochs", "1", "--epoch-samples", "1000", "--threads", "1", "--no-test"),
    )
    log = trained.events()
    # What many watched, and comments here and there, are taken out of the catalog before anyone does anything.
    watched = Counter(event.video_id for event in log)
    removed = Removed({video for video, _ in watched.most_common(10)}, set(list(trained.comment_video())[::50]))

    info = own_stack.status()
    bootstrap, redis_url = info.bootstrap_servers, info.redis_url
    assert bootstrap is not None
    assert redis_url is not None
    to_broker = ("--bootstrap-servers", bootstrap)
    flags = "--registry", str(trained.registry), "--no-live"  # PyTorch's scores are the model's alone
    flags = *flags, "--session-memory", "100"
    with WorkerProcess(bootstrap, redis_url, tmp_path / "data", flags=flags) as worker:
        worker.wait_ready()
        lsvcr("publish", *trained.files(VIDEOS, COMMENTS), *to_broker)
        with Publisher(bootstrap) as publisher:
            for video in removed.videos:
                publisher.remove_video(video)
            for comment in removed.comments:
                publisher.remove_comment(comment)
        wait_until_catalog_read(worker, bootstrap)
        counts = trained.bundle.manifest.counts
        left = counts.videos + counts.comments - len(removed.videos) - len(removed.comments)
        assert worker.metric("lsvcr_catalog_entries") == left
        lsvcr("publish", *trained.files(VIDEO_VIEWS, COMMENT_INTERACTIONS), *to_broker)
        wait_until_committed(bootstrap, worker)
        assert worker.metric("lsvcr_rejected_events_total") == 0
        seen = {event.user_id for event in log}
        assert worker.metric("lsvcr_sessions") == len(seen) <= worker.metric("lsvcr_encodings_total")
        room = Scorer(trained.bundle, session_bytes=100 << 20).sessions.use().room
        assert worker.metric("lsvcr_session_room") == room > len(seen)
        assert worker.metric("lsvcr_session_evictions_total") == 0
        assert worker.stop() == 0

    outcome = Outcome.read(bootstrap)
    users = {event.user_id for event in log if engages(event, trained.history)}
    assert users <= outcome.lists["videos"].keys()
    assert any(isinstance(event, CommentInteraction) for event in log)
    check_states(bootstrap, log, trained.history)
    check_triggers(bootstrap, log)
    check_origins(bootstrap, outcome)
    check_redis(bootstrap, redis_url)
    check_promises(log, trained, outcome, removed)
    some = sorted(users)[:COMPARED]
    assert len(some) == COMPARED
    check_scores(outcome, trained.rankings(), removed, some)
    assert sum(len(outcome.lists["comments"][user].items) > 0 for user in some) > COMPARED / 2
