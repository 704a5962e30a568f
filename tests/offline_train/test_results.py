"""The study, end to end on a small made-up data set, with real training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from infra.cli import main
from offline_train import results
from offline_train.alignment_config import AlignmentConfig
from offline_train.alignment_samples import DrawConfig
from offline_train.cold import UNKNOWN_FIRST
from offline_train.deployed import NAME
from offline_train.finetuning import Finetuned
from offline_train.finetuning_config import FinetuneConfig
from offline_train.full import read_config
from offline_train.results import DEFAULT, SOURCES, make_results
from offline_train.sources.writer import LogWriter, SourceError
from offline_train.study import kept, texts
from offline_train.study.kept import Source, converted
from streams.events import Comment, CommentInteraction, Video, VideoView

pytestmark = pytest.mark.train

HOUR = 3_600_000
QUICK = FinetuneConfig(epochs=1, batch=64, threads=1)


def made_up(source: Path, out: Path) -> LogWriter:
    """Twenty users who each like one of two kinds of film, and the comments that praise it."""
    random = np.random.default_rng(int((source / "seed.txt").read_text()))
    with LogWriter(out, "made-up") as log:
        for v in range(20):
            log.write(Video(f"v{v}", f"{'space' if v % 2 else 'love'} film number {v}", created_ms=0))
            for c in range(3):
                log.write(Comment(f"c{v}-{c}", f"v{v}", f"good {'rockets' if c % 2 else 'kisses'} {v}", created_ms=1))
        for n in range(600):
            user = int(random.integers(20))
            video = int(random.integers(10)) * 2 + user % 2
            log.write(VideoView(f"w{n}", f"u{user}", f"v{video}", n * HOUR, 60_000))
            comment = f"c{video}-{user % 3}"
            log.write(CommentInteraction(f"l{n}", f"u{user}", f"v{video}", comment, n * HOUR + 1, "like"))
    return log


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "made-up"
    folder.mkdir(parents=True)
    (folder / "seed.txt").write_text("1")
    return tmp_path / "shared"


@pytest.fixture
def source() -> Source:
    return Source("Made up", "made-up", "made-up", made_up, "Nobody exists.")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, source: Source, shared: Path, tmp_path: Path) -> Path:
    """A finished study: its document."""
    monkeypatch.setattr(results, "SOURCES", (source,))
    monkeypatch.setattr(results, "BENCHMARKS", ())
    return make_results(
        shared, tmp_path / "docs", tmp_path / "work", seeds=2, config=QUICK, recbole_seeds=0, stage1_seeds=0
    )


def test_the_study_writes_every_model_task_protocol_and_metric(study: Path, shared: Path, tmp_path: Path) -> None:
    rows = json.loads((study.parent / "results.json").read_text())
    assert set(rows[0]) == {"data", "task", "protocol", "split", "model", "metric", "mean", "std", "seeds"}
    cells = {(row["task"], row["protocol"], row["model"]) for row in rows}
    for task, protocol in ((t, p) for t in ("video", "comment") for p in ("full", "as-of")):
        assert {(task, protocol, NAME), (task, protocol, "random"), (task, protocol, "newest first")} <= cells
    assert len([row for row in rows if "tenth" not in row["metric"]]) == 12 * len(cells)
    assert {row["seeds"] for row in rows if row["model"] in (NAME, "random")} == {2}
    assert {row["seeds"] for row in rows if row["model"] == "item-kNN"} == {1}
    assert all(0 <= row["mean"] <= 1 for row in rows)
    assert "### Comments, as-of ranking" in study.read_text()
    assert "Nobody exists." in study.read_text()
    assert str(tmp_path) not in study.read_text()

    # Again, from what was kept: nothing is trained, and the figures are the same.
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "finetune_best", refuse)
        make_results(
            shared, tmp_path / "again", tmp_path / "work", seeds=2, config=QUICK, recbole_seeds=0, stage1_seeds=0
        )
        assert (tmp_path / "again" / "results.json").read_text() == (study.parent / "results.json").read_text()
        with pytest.raises(AssertionError, match="trained again"):
            make_results(
                shared, tmp_path / "more", tmp_path / "work", seeds=3, config=QUICK, recbole_seeds=0, stage1_seeds=0
            )

    # The command shows a kept bundle beside the baselines.
    bundle = next((tmp_path / "work" / "bundles").glob("*joint-0-*"))
    log = next((tmp_path / "work" / "logs").iterdir())
    called = CliRunner().invoke(main, ["evaluate", "--log", str(log), "--bundle", str(bundle), "--json"])
    assert called.exit_code == 0, called.output
    shown = {(r["task"], r["protocol"], r["model"]): r["values"] for r in json.loads(called.stdout)}
    table = {
        row["metric"]: row["mean"]
        for row in rows
        if (row["task"], row["protocol"], row["model"]) == ("video", "as-of", "trending (30 days)")
    }
    assert shown["video", "as-of", "trending (30 days)"] == pytest.approx(table)
    assert "warning" not in called.stderr
    printed = CliRunner().invoke(main, ["evaluate", "--log", str(log), "--bundle", str(bundle)])
    assert NAME in printed.output
    assert "NDCG@10" in printed.output


def test_other_texts_and_parts_of_stage_1_stand_in_the_table(
    monkeypatch: pytest.MonkeyPatch, source: Source, shared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    import tiny_llm

    align = AlignmentConfig(
        DrawConfig(history=4, prompt_history=2),
        samples=16,
        batch=8,
        head_samples=32,
        head_epochs=1,
        text_tokens=6,
        comment_map_rate=0.0,
    )
    monkeypatch.setattr(results, "SOURCES", (replace(source, align=align),))
    monkeypatch.setattr(results, "BENCHMARKS", ())
    monkeypatch.setattr(texts, "DEFAULT_LLM", str(tiny_llm.make(tmp_path / "model")))
    trained = []
    really = kept.finetune_best

    def finetune(*arguments: Any) -> Finetuned:
        trained.append(really(*arguments))
        return trained[-1]

    monkeypatch.setattr(kept, "finetune_best", finetune)
    folders = tmp_path / "docs", tmp_path / "work"
    options = {"seeds": 1, "config": QUICK, "recbole_seeds": 0, "stage1_seeds": 2}
    document = make_results(shared, *folders, **options)
    rows = json.loads((document.parent / "results.json").read_text())
    seeds = {
        row["model"]: row["seeds"]
        for row in rows
        if (row["task"], row["protocol"], row["metric"]) == ("video", "as-of", "ndcg@10")
    }
    assert {name: seeds[name] for name in (texts.IDS, texts.SVD, texts.RAW, texts.FULL)} == {
        texts.IDS: 1,
        texts.SVD: 2,
        texts.RAW: 2,
        texts.FULL: 2,
    }
    assert seeds[f"{texts.FULL} (videos alone)"] == 1
    assert f"{texts.FULL} (comments alone)" not in seeds, "it ranks no videos"
    assert {f"lsvcr without {part}" for part in ("behaviour contrast", "InfoNCE with z", "L_rec")} <= set(seeds)
    profiles = {row["model"]: row["seeds"] for row in rows if row["task"] == "comment" and "profile (" in row["model"]}
    assert {name: profiles[f"text profile ({name})"] for name in ("TF-IDF", texts.SVD, texts.RAW, texts.FULL)} == {
        "TF-IDF": 1,
        texts.SVD: 1,
        texts.RAW: 1,
        texts.FULL: 2,
    }
    written = document.read_text()
    assert "### Text and stage 1 (Made up)" in written
    assert "lsvcr is " in written
    assert len(list((tmp_path / "work" / "stage1" / "stage1").iterdir())) == 2 + 3  # two seeds, three ablations
    assert (document.parent / "results" / "made-up-text.png").stat().st_size > 10_000

    # What stage 1 says of a profile is not taken by a row that is to have none.
    residuals = [float(one.model.encoder.video_profile.detach()) for one in trained]
    assert residuals.count(0.0) == 2
    assert all(value > 1 for value in residuals if value)

    # Nothing is aligned, embedded or trained again.
    for where, name in ((kept, "finetune_best"), (texts, "llm_vectors")):
        monkeypatch.setattr(where, name, lambda *_, **__: pytest.fail("made again"))
    again = make_results(shared, tmp_path / "again", tmp_path / "work", **options)
    assert (again.parent / "results.json").read_text() == (document.parent / "results.json").read_text()
    fewer = make_results(shared, tmp_path / "fewer", tmp_path / "work", ablations=False, **options)
    plain = {row["model"] for row in json.loads((fewer.parent / "results.json").read_text())}
    parts = ("behaviour contrast", "InfoNCE with z", "L_rec", "the profile residual")
    assert {row["model"] for row in rows} - plain == {
        texts.IDS,
        f"{texts.RAW} without the profile residual",
        *(f"{texts.FULL}, {part} alone" for part in ("vectors", "start")),
        *(f"{texts.FULL} without {part}" for part in parts),
    }

    # The comparison alone, of one seed: it replaces the old one, and all else stays.
    less = {**options, "stage1_seeds": 1, "ablations": False, "texts_only": True}
    with pytest.raises(ValueError, match="nothing of Made up"):
        make_results(shared, tmp_path / "empty", tmp_path / "work", **less)
    with pytest.raises(ValueError, match="--stage1-seeds"):
        make_results(shared, *folders, **{**less, "stage1_seeds": 0})
    with pytest.raises(ValueError, match="no data set"):
        make_results(shared, *folders, only=("amazon-beauty",), **less)
    make_results(shared, *folders, **less)
    after = json.loads((document.parent / "results.json").read_text())
    named = (texts.FULL, texts.RAW, UNKNOWN_FIRST)
    ours = {texts.SVD, *(row["model"] for row in rows if any(name in row["model"] for name in named))}
    assert f"random, {UNKNOWN_FIRST}" in ours
    assert [row for row in after if row["model"] not in ours and "cold" not in row["protocol"]] == [
        row for row in rows if row["model"] not in {texts.IDS, *ours} and "cold" not in row["protocol"]
    ]
    assert {row["model"] for row in after} == plain
    assert {row["seeds"] for row in after if row["model"] in ours} == {1}
    whole, fewer_rows = written, document.read_text()
    assert set(fewer_rows.splitlines()) & set(whole.splitlines()) > {"## Made up", "### Comments, as-of ranking"}
    assert whole.split("### Text and stage 1")[0] == fewer_rows.split("### Text and stage 1")[0]


def test_a_log_is_converted_again_only_if_its_files_changed(source: Source, shared: Path, tmp_path: Path) -> None:
    first = converted(source, shared, tmp_path / "logs")
    marked = first / "mark"
    marked.touch()
    assert converted(source, shared, tmp_path / "logs") == first
    assert marked.exists()
    (shared / "made-up" / "seed.txt").write_text("2")
    assert converted(source, shared, tmp_path / "logs") != first


def test_the_study_trains_rotten_tomatoes_as_the_shipped_configuration_does() -> None:
    shipped = read_config("infra/training/rotten-tomatoes.yaml")
    (source,) = (one for one in SOURCES if one.slug == "rotten-tomatoes")
    assert source.align == shipped.align
    assert shipped.finetune == DEFAULT


def test_missing_data_is_named(tmp_path: Path) -> None:
    for one in (source for source in SOURCES if source.folder):
        with pytest.raises(SourceError, match=one.folder):
            converted(one, tmp_path / "nowhere", tmp_path / "logs")
    called = CliRunner().invoke(
        main, ["evaluate", "results", "--data", str(tmp_path), "--work", str(tmp_path / "w"), "--out", str(tmp_path)]
    )
    assert called.exit_code == 1
    assert "Error" in called.output


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["evaluate"]).exit_code == 2
    nothing = runner.invoke(main, ["evaluate", "--log", str(tmp_path / "none"), "--baselines-only"])
    assert nothing.exit_code == 1
    assert "is no folder" in nothing.output
    unregistered = runner.invoke(main, ["evaluate", "--log", str(tmp_path), "--registry", str(tmp_path / "none")])
    assert unregistered.exit_code == 1
    assert "--baselines-only" in unregistered.output
