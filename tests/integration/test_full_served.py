"""Both stages of training end in a model that a worker serves: the trainer's scores, and new titles by their text."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from support import tiny_training
from support.live_platform import view
from support.outcome import check_redis, check_states, last_lists
from support.whole_path import (
    Outcome,
    Removed,
    TrainedLog,
    check_promises,
    check_scores,
    lsvcr,
    wait_until_catalog_read,
    wait_until_committed,
)
from support.worker_process import WorkerProcess

from model_runtime.arrivals import Arrivals, VideoEntry
from model_runtime.scorer import Request, Scorer
from streams.events import Video
from streams.publisher import Publisher
from streams.topics import COMMENT_INTERACTIONS, COMMENTS, VIDEO_VIEWS, VIDEOS

pytestmark = [pytest.mark.integration, pytest.mark.train]

CONFIG = """
log: {folder}/log
registry: {folder}/registry
cache: {folder}/cache
llm: {folder}/model
align: {{samples: 32, batch: 8, head_samples: 32, head_epochs: 1, z_samples: 16, replay: 1, text_tokens: 6,
        micro_tokens: 700, threads: 1, draw: {{history: 4, prompt_history: 2}}}}
finetune: {{epochs: 2, batch: 64, threads: 1}}
test: false
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedLog:
    folder = tiny_training.prepare(tmp_path_factory.mktemp("full-served"))
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    printed = lsvcr("train", "full", "--config", folder / "config.yaml", "--json")
    return TrainedLog.promoted(folder / "log", folder / "registry", printed)


def test_a_worker_serves_what_both_stages_made(
    trained: TrainedLog, fresh_topics: str, redis_url: str, tmp_path: Path
) -> None:
    log = trained.events()
    to_broker = ("--bootstrap-servers", fresh_topics)
    flags = "--registry", str(trained.registry), "--no-live"  # PyTorch's scores are the model's alone
    with WorkerProcess(fresh_topics, redis_url, tmp_path, flags=flags) as worker:
        worker.wait_ready()
        lsvcr("publish", *trained.files(VIDEOS, COMMENTS), *to_broker)
        wait_until_catalog_read(worker, fresh_topics)
        assert worker.metric("lsvcr_catalog_encoded_total") == 0, "all texts are those of the training"
        lsvcr("publish", *trained.files(VIDEO_VIEWS, COMMENT_INTERACTIONS), *to_broker)
        wait_until_committed(fresh_topics, worker)

        outcome = Outcome.read(fresh_topics)
        check_states(fresh_topics, log, trained.history)
        check_redis(fresh_topics, redis_url)
        check_promises(log, trained, outcome, Removed())
        check_scores(outcome, trained.rankings(spare=0), Removed())

        with Publisher(fresh_topics) as publisher:
            publisher.publish(Video("new", "purring kitten whiskers"))
        wait_until_catalog_read(worker, fresh_topics)
        assert worker.metric("lsvcr_catalog_encoded_total") == 1
        with Publisher(fresh_topics) as publisher:
            publisher.publish(view("stranger", "v0"))
        wait_until_committed(fresh_topics, worker)
        found = last_lists(fresh_topics, "videos")["stranger"]

    scorer = Scorer(trained.bundle)
    assert Arrivals(scorer.candidates).apply([VideoEntry("new", "purring kitten whiskers")]) == []
    (expected,) = scorer.score([Request(["v0"], current_video="v0")])
    assert [item.id for item in found.items] == expected.video_ids
    assert "new" in expected.video_ids
