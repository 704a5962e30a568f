"""`lsvcr models` without a broker: what there is, what it says of itself, and how two models differ on a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import releases
from support.traffic import topic_of

from infra.cli import main
from model_runtime.registry import Registry
from streams import events

OTHER = ("--bootstrap-servers", "127.0.0.1:1")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("models")
    registry = Registry(folder / "registry")
    for seed, version in enumerate(("20250101T000000Z-aa", "20250102T000000Z-bb")):
        releases.publish(registry, folder, version, releases.model("x", seed), metrics={"validation": {"ndcg": seed}})
    registry.promote("stable", "20250101T000000Z-aa")
    return registry


def models(registry: Registry, *arguments: object) -> Any:
    result = CliRunner().invoke(main, ["models", *map(str, arguments), "--registry", str(registry.root)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def test_list_and_show_tell_what_there_is(registry: Registry) -> None:
    found = models(registry, "list", "--json")["models"]
    assert [model["version"] for model in found] == ["20250102T000000Z-bb", "20250101T000000Z-aa"]
    assert [model["channels"] for model in found] == [[], ["stable"]]
    assert found[0]["metrics"] == {"validation": {"ndcg": 1}}
    assert "20250102T000000Z-bb" in models(registry, "list")
    shown = models(registry, "show", "stable", "--json")
    assert shown["version"] == "20250101T000000Z-aa"
    assert shown["uri"] == registry.uri(shown["version"])


def test_diff_compares_lists_and_metrics_on_a_log(registry: Registry, tmp_path: Path) -> None:
    log = releases.some_events(1_500, users=60)
    for topic in {topic_of(event) for event in log}:
        lines = [events.encode(event) for event in log if topic_of(event) == topic]
        (tmp_path / f"{topic}.jsonl").write_bytes(b"\n".join(lines))
    options = ("--log", tmp_path, "--users", 20, "--json", *OTHER)
    different = models(registry, "diff", "20250101T000000Z-aa", "20250102T000000Z-bb", *options)
    assert different["videos"]["users"] == 20
    assert different["videos"]["overlap"] < 0.9
    (full,) = [row for row in different["metrics"] if (row["task"], row["protocol"]) == ("video", "full")]
    assert set(full["ndcg@10"]) == {"20250101T000000Z-aa", "20250102T000000Z-bb"}
    same = models(registry, "diff", "stable", "20250101T000000Z-aa", *options)["videos"]
    assert (same["overlap"], same["same_list"], same["rank_correlation"]) == (1, 1, 1)


def test_mistakes_are_told_in_a_sentence(registry: Registry) -> None:
    for arguments, why in (
        (("show", "nope"), "no version nope"),
        (("rollback",), "has served 20250101T000000Z-aa only"),
        (("canary",), "--percent"),
        (("canary", "--percent", "5"), "channel canary .* serves no version"),
    ):
        result = CliRunner().invoke(main, ["models", *arguments, "--registry", str(registry.root), *OTHER])
        assert result.exit_code in (1, 2)
        assert "Traceback" not in result.output
        import re

        assert re.search(why, result.output), result.output
