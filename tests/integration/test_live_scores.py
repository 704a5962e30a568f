"""A worker with live signals publishes what the trainer's own scorer gives for the same log and moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.outcome import last_lists
from support.traffic import publish
from support.whole_path import TrainedLog, lsvcr, wait_until_catalog_read, wait_until_committed
from support.worker_process import WorkerProcess

from infra.local.stack import LocalStack
from streams.events import Video, VideoView
from streams.topics import COMMENT_INTERACTIONS, COMMENTS, VIDEO_VIEWS, VIDEOS

pytestmark = [pytest.mark.integration, pytest.mark.train]

TOP = 100
#: float32 of both sides, and a millisecond of decay
TOLERANCE = 1e-3


def test_published_scores_are_those_of_the_trainers_scorer(own_stack: LocalStack, tmp_path: Path) -> None:
    from offline_train.corpus import Corpus
    from offline_train.deployed import BundleScorer
    from offline_train.live_scorer import LiveScorer
    from offline_train.log import VIEW, Log
    from offline_train.protocols import Protocols

    lsvcr(
        *("simulate", "--out", tmp_path / "log", "--users", "300", "--videos", "500", "--comments", "1000"),
        *("--interactions", "6000", "--topics", "8"),
    )
    trained = TrainedLog.fit(
        *(tmp_path / "log", tmp_path / "registry"),
        *("--epochs", "1", "--epoch-samples", "1000", "--threads", "1", "--no-test"),
    )
    bundle, known = trained.bundle, Log.read(tmp_path / "log", trained.history)
    assert bundle.live is not None
    live = bundle.live.tasks["video"]
    now_ms = int(max(known.ts_ms.max(), known.first_seen_video.max())) + 1000

    # At one moment, users glance at what they have watched already. Then, for the trainer alone, each goes on.
    glances, asked = [], []
    for user in range(len(known.user_ids)):
        mine = known.video[known.user == user]
        if 1 < len(set(mine.tolist())) <= trained.history.seen:
            name = known.user_ids[user]
            glances.append(VideoView(f"glance-{name}", name, known.video_ids[mine[0]], now_ms, 0, 60_000))
            asked.append(VideoView(f"next-{name}", name, "what comes next", now_ms + 1, 60_000, 60_000))
    glances, asked = glances[:60], asked[:60]
    assert len(glances) == 60

    info = own_stack.status()
    bootstrap = info.bootstrap_servers
    assert bootstrap is not None
    assert info.redis_url is not None
    flags = "--registry", str(trained.registry), "--explain"
    with WorkerProcess(bootstrap, info.redis_url, tmp_path / "data", flags=flags) as worker:
        worker.wait_ready()
        lsvcr("publish", *trained.files(VIDEOS, COMMENTS), "--bootstrap-servers", bootstrap)
        wait_until_catalog_read(worker, bootstrap)
        lsvcr("publish", *trained.files(VIDEO_VIEWS, COMMENT_INTERACTIONS), "--bootstrap-servers", bootstrap)
        wait_until_committed(bootstrap, worker)
        publish(bootstrap, glances)
        wait_until_committed(bootstrap, worker)
        assert worker.metric("lsvcr_rejected_events_total") == 0
        assert worker.stop() == 0
    lists = last_lists(bootstrap, "videos")

    catalog = [Video("what comes next", "", created_ms=now_ms + 1)]
    before = Log.read(tmp_path / "log", trained.history)
    entries = [
        Video(id_, text, created_ms=int(at))
        for id_, text, at in zip(before.video_ids, before.video_titles, before.first_seen_video, strict=True)
    ]
    log = Log.build(
        iter([*entries, *catalog]), iter([*map(before.event, range(before.events)), *glances, *asked]), trained.history
    )
    corpus = Corpus.build(log)
    target = log.video_index["what comes next"]
    rows = np.flatnonzero((corpus.samples.kind == VIEW) & (corpus.samples.target_video == target))
    assert len(rows) == len(asked)
    training = log.ts_ms < bundle.manifest.training["valid_ms"]
    scorer = LiveScorer(BundleScorer(bundle, log, corpus, "video"), live, log, corpus, training)
    compared, moved = 0, 0
    for queries, _ in Protocols(log).batches("video", corpus.samples, rows):
        for user, scores in zip(queries.user, scorer.scores(queries), strict=True):
            found = lists[log.user_ids[user]]
            best = np.sort(scores)[::-1][: len(found.items)]
            assert len(found.items) == min(TOP, int(np.isfinite(scores).sum()))
            np.testing.assert_allclose([item.score for item in found.items], best, atol=TOLERANCE)
            own = [float(scores[log.video_index[item.id]]) for item in found.items]
            np.testing.assert_allclose([item.score for item in found.items], own, atol=TOLERANCE)
            compared += len(own)
            moved += sum(item.live is not None and abs(item.live) > TOLERANCE for item in found.items)
    assert compared == len(asked) * TOP
    assert moved > compared / 2
