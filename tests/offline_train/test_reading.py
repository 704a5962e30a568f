"""`lsvcr evaluate reading`: ways of reading texts, ranked without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("peft")

import numpy as np
import tiny_llm
import torch

from infra.cli import main
from offline_train.alignment_maps import TextMap
from offline_train.corpus import Corpus, temporal_split
from offline_train.embedding import CorpusTexts
from offline_train.llm import LLM
from offline_train.log import Log
from offline_train.sources.simulator import Simulator, SimulatorConfig
from offline_train.study import reading

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated")
    Simulator(SimulatorConfig(users=100, videos=80, comments=400, days=10, interactions=2000)).write(out)
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llm.make(tmp_path_factory.mktemp("tiny")))


def run(log: Path, llm: Path | str, cache: Path, *more: object) -> tuple[int, str, str]:
    asked = ["evaluate", "reading", "--log", log, "--llm", llm, "--cache", cache, "--protocol", "full", "--json"]
    result = CliRunner().invoke(main, [*map(str, (*asked, *more)), "--tokens", "2", "--tokens", "6"])
    return result.exit_code, result.stdout, result.stderr


def test_every_way_of_reading_has_a_row_and_no_text_is_read_twice(
    log: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said, error = run(log, model, tmp_path)
    assert code == 0, error
    rows = {row["model"]: row["values"]["ndcg@10"] for row in json.loads(said)}
    assert next(iter(rows)) == "TF-IDF"
    ways = [f"{before}{most}" for before in ("", "words+") for most in (2, 6)]
    assert list(rows)[1:] == [f"{way}, {how}" for way in ways for how in ("plain", "half", "whitened")]
    assert rows["words+6, half"] != rows["6, half"], "the words before a text tell"
    assert rows["6, half"] != rows["2, half"]
    assert len({rows[f"words+6, {how}"] for how in ("plain", "half", "whitened")}) == 3

    monkeypatch.setattr(LLM, "pooled", lambda *_: pytest.fail("this text is in the store"))
    assert run(log, model, tmp_path)[:2] == (0, said)


def test_only_the_texts_of_the_targets_asked_for_are_read(
    log: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FITTED", 10)
    read: list[int] = []
    pooled = LLM.pooled
    monkeypatch.setattr(LLM, "pooled", lambda llm, rows: read.append(len(rows)) or pooled(llm, rows))
    few, others = (
        json.loads(run(log, model, tmp_path / part, "--limit", 2, "--part", part)[1]) for part in ("valid", "test")
    )
    assert few[0]["values"] != others[0]["values"]
    everything = len(CorpusTexts.of(Log.read(log), 0).distinct)
    assert 0 < sum(read) / (2 * 2 * 2) < everything / 2, "two lengths, with the words and without, of two parts"

    monkeypatch.setattr(reading, "_FITTED", 10**6)
    more, thin = [json.loads(run(log, model, tmp_path / "all", *options)[1]) for options in ((), ("--limit", 10**6))]
    assert more == thin, "a limit that leaves all targets changes nothing"


def test_a_comment_has_its_own_vector_whatever_else_is_read(
    log: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FITTED", 40)  # some comments are read only because they are shown
    corpus = Corpus.read(log)
    split = temporal_split(corpus)
    monkeypatch.setattr(
        TextMap, "fit", lambda mapping, *_: mapping.standard.fit(torch.zeros(2, mapping.down.in_features))
    )
    shown = np.zeros((2, len(corpus.log.comment_ids)), bool)
    shown[0, ::7], shown[1] = True, True
    some, everything = (
        next(reading._read(corpus, split, rows, LLM.load(str(model)), tmp_path, 6, "", lambda *_: None))._unit
        for rows in shown
    )
    assert np.allclose(some[::7], everything[::7], atol=1e-5)
    assert (np.abs(some[1:7] - everything[1:7]).max(1) > 0.1).any(), "what is not shown was not read"


def test_a_missing_language_model_is_named(log: Path, tmp_path: Path) -> None:
    code, _, error = run(log, tmp_path / "none.gguf", tmp_path)
    assert code == 1
    assert "none.gguf" in error
