"""A refresh with a language model aligns it now and then, and reads with it what is new in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import tastes
from small_refresh import config, promote

from model_runtime.registry import Registry
from model_runtime.scorer import Scorer
from offline_train.refresh import refresh
from offline_train.refresh_config import RefreshError

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tastes.write(tmp_path_factory.mktemp("log"))


STAGE1 = {
    "samples": 24,
    "batch": 8,
    "head_samples": 32,
    "head_epochs": 1,
    "z_samples": 16,
    "text_tokens": 6,
    "micro_tokens": 700,
    "checkpoint_steps": 1,
    "draw": {"history": 4, "prompt_history": 2},
}


@pytest.mark.parametrize("apart", [False, True])
def test_a_language_model_is_aligned_now_and_then_and_reads_what_is_new(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    pytest.importorskip("peft")
    import tiny_llm

    from offline_train import alignment, embedding, finetuning, refresh_stage1
    from offline_train import refresh as refreshing
    from offline_train.corpus import Corpus, Split
    from offline_train.finetuning import Finetuned
    from offline_train.text import TextVectors

    options = STAGE1 | ({"comment_map_rate": 0.0, "comments_as_came": True} if apart else {})
    stage1 = {"every_days": 30, "llm": str(tiny_llm.make(tmp_path / "model")), "options": options}
    log = shutil.copytree(folder, tmp_path / "log")
    settings = config(log, tmp_path, stage1=stage1, gate={"fewest": 10, "margin": 0.9})

    # Killed between two steps of the language model, it goes on after the last one.
    steps: list[int] = []
    step = alignment._Run._step

    def killed(self: alignment._Run, number: int, began: float) -> alignment.Step:
        steps.append(number)
        if steps == [0, 1]:
            raise KeyboardInterrupt
        return step(self, number, began)

    starts: list[bool] = []
    trained = refreshing.finetune

    def started(corpus: Corpus, split: Split, texts: TextVectors, *rest: object, **more: object) -> Finetuned:
        starts.append(texts.start is not None)
        return trained(corpus, split, texts, *rest, **more)

    monkeypatch.setattr(refreshing, "finetune", started)
    monkeypatch.setattr(finetuning, "finetune", started)
    monkeypatch.setattr(alignment._Run, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        refresh(settings, release=promote)
    done = refresh(settings, release=promote)
    assert done.outcome == "published", done.why
    assert steps == [0, 1, 1, 2]
    registry = Registry(tmp_path / "registry")
    assert Scorer(registry.open(done.version)).check_sample() > 0
    assert "aligned" in registry.open(done.version).manifest.training["text"]

    # The next one reads only what is new, and starts from what serves.
    read: list[str] = []
    compute = embedding.PooledStore._compute

    def noted(self: embedding.PooledStore, texts: dict[bytes, str], *rest: object) -> None:
        read.extend(texts.values())
        compute(self, texts, *rest)

    monkeypatch.setattr(embedding.PooledStore, "_compute", noted)
    monkeypatch.setattr(refresh_stage1, "llm_vectors", lambda *_, **__: pytest.fail("aligned again"))
    with (log / "videos.jsonl").open("a") as videos:
        videos.write('\n{"video_id": "brand-new", "title": "A title that nobody has read"}\n')
    again = refresh(settings, release=promote)
    assert again.outcome == "published", again.why
    assert read == ["A title that nobody has read"]
    tried = [True, False] if apart else [True]
    assert starts == [*tried, False], "first from what stage 1 left, or from scratch; then from what serves"
    assert json.loads(again.report.read_text())["training"]["start"] == "serving"

    # When the alignment is too old, there is a new one.
    monkeypatch.undo()
    (kept,) = (tmp_path / "work" / "stage1").iterdir()
    kept.rename(kept.with_name(str(int(kept.name) - 31 * 24 * 3600 * 1000)))
    refresh(settings, release=promote)
    (newest,) = (tmp_path / "work" / "stage1").iterdir()
    assert newest.name > kept.name, "the old one is gone, and what it read"
    assert len(list((tmp_path / "work" / "llm" / "pooled").iterdir())) == 2


def test_mistakes_in_stage_1_are_named(folder: Path, tmp_path: Path) -> None:
    for options, why in (({"sample": 3}, "unknown key stage1.options.sample"), ({"batch": "many"}, "batch")):
        with pytest.raises(RefreshError, match=why):
            config(folder, tmp_path, stage1={"options": options}).aligning()
    with pytest.raises(ValueError, match="no/such/model"):
        refresh(config(folder, tmp_path, stage1={"llm": "no/such/model"}), release=promote)
