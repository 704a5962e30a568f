import json

import pytest

pytest.importorskip("torch")

import tastes
from click.testing import CliRunner

from infra.cli import main
from model_runtime.registry import Registry
from model_runtime.scorer import Scorer
from offline_train.reference import Reference

pytestmark = pytest.mark.train
QUICK = ["--epochs", "1", "--batch", "64", "--threads", "1"]


def run(*arguments):
    return CliRunner().invoke(main, ["train", "fit", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tastes.write(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory):
    registry = tmp_path_factory.mktemp("fit") / "registry"
    result = run("--log", folder, "--registry", registry, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    return registry, json.loads(result.stdout)


def test_it_publishes_and_promotes_a_model_that_serves(fitted):
    registry, summary = fitted
    store = Registry(registry)
    assert store.versions() == [summary["version"]]
    assert store.channel("stable") == summary["version"]
    scorer = Scorer(store.open(summary["version"]))
    assert scorer.check_sample() > 0


def test_it_measures_the_bundle_beside_the_baselines(fitted):
    registry, summary = fitted
    test = Registry(registry).manifest(summary["version"]).metrics["test"]
    assert test == summary["metrics"]["test"]
    assert {"video full", "video as-of", "comment full", "comment as-of"} == set(test)
    for row in test.values():
        assert {"LSVCR", "random"} <= set(row)
        assert all(0 <= value <= 1 for value in row.values())


def test_it_leaves_report_curves_and_checkpoint(fitted):
    _, summary = fitted
    with open(summary["report"]) as file:
        report = json.load(file)
    assert report["version"] == summary["version"]
    assert [point["epoch"] for point in report["curve"]] == [0, 1]
    assert report["log"]["users"] == 30
    assert report["config"]["task"] == "joint"
    with open(summary["curves"], "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert Reference.load(summary["checkpoint"]).video_ids


def test_without_promotion_the_channel_stays(folder, tmp_path):
    result = run("--log", folder, "--registry", tmp_path, *QUICK, "--no-promote", "--no-test", "--task", "video")
    assert result.exit_code == 0, result.output
    assert len(Registry(tmp_path).versions()) == 1
    assert Registry(tmp_path).channels() == []
    assert "checkpoint" in result.stdout


def test_what_can_not_be_read_fails_with_a_reason(tmp_path):
    result = run("--log", tmp_path / "missing", "--registry", tmp_path)
    assert result.exit_code == 1
    assert "no folder" in result.output
    (tmp_path / "video-views.jsonl").write_text("{}\n")
    result = run("--log", tmp_path, "--registry", tmp_path)
    assert result.exit_code == 1
    assert "line 1" in result.output


def test_a_log_too_small_to_split_fails_with_a_reason(tmp_path):
    line = '{"event_id":"e","user_id":"u","video_id":"v","ts_ms":1,"watch_ms":20000}\n'
    (tmp_path / "video-views.jsonl").write_text(line)
    result = run("--log", tmp_path, "--registry", tmp_path)
    assert result.exit_code == 1
    assert "can't split 1 samples" in result.output


def test_wrong_usage_is_told_apart():
    assert run().exit_code == 2
    assert run("--log", ".", "--task", "both").exit_code == 2
