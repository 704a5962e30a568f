"""A refresh trains from what serves, publishes what is no worse, and leaves the serving model alone otherwise."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import tastes
import torch
from small_refresh import STUDENT, TRAIN, config, promote

from infra.demo.spoilt import spoilt_training
from model_runtime.registry import Registry
from model_runtime.scorer import Scorer
from offline_train.refresh import Refreshed, refresh
from offline_train.refresh_config import RefreshConfig, RefreshError, load_config
from offline_train.stages import Work

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tastes.write(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Refreshed]:
    """A first refresh, with nothing that serves before it, and where."""
    place = tmp_path_factory.mktemp("first")
    return place, refresh(config(folder, place), release=promote)


@pytest.fixture
def served(first: tuple[Path, Refreshed], tmp_path: Path) -> Refreshed:
    """That refresh; its registry and its work are those of the test."""
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    return first[1]


def test_a_refresh_publishes_and_the_next_one_starts_from_it(folder: Path, tmp_path: Path, served: Refreshed) -> None:
    registry = Registry(tmp_path / "registry")
    assert served.outcome == "published"
    assert registry.channel("stable") == served.version
    assert Scorer(registry.open(served.version)).check_sample() > 0
    first = json.loads(served.report.read_text())
    assert first["serving_at_start"] is None
    assert first["training"]["start"] != "serving"
    again = refresh(config(folder, tmp_path, gate={"fewest": 10, "margin": 0.5}), release=promote)
    assert again.outcome == "published", again.why
    report = json.loads(again.report.read_text())
    assert report["training"]["start"] == "serving"
    assert report["serving_at_start"] == served.version
    ended = first["curve"][first["training"]["best_epoch"]]["score"]
    assert report["curve"][0]["score"] == pytest.approx(ended, abs=1e-3), "it starts where the serving model ended"
    assert {(r["task"], r["model"]) for r in report["results"]} == {
        (task, model) for task in ("video", "comment") for model in ("candidate", "serving")
    }
    for judged in report["decision"]["tasks"]:
        assert judged["candidate"] >= judged["serving"] * 0.5
    assert again.curves.read_bytes().startswith(b"\x89PNG")
    assert (registry.pointer("stable").version, registry.pointer("stable").previous) == (again.version, served.version)
    assert not (tmp_path / "work" / "current").exists()
    assert json.loads(registry.kept(f"reports/{again.version}/report.json")) == report


def test_comments_stay_apart_from_one_refresh_to_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offline_train.starts._PAYS_APART", 0.0)
    first = refresh(config(folder, tmp_path), release=promote)
    monkeypatch.setattr("offline_train.starts._PAYS_APART", 1e9)
    again = refresh(config(folder, tmp_path, gate={"fewest": 10, "margin": 0.9}), release=promote)
    assert again.outcome == "published", again.why
    for done in (first, again):
        bundle = Registry(tmp_path / "registry").open(done.version)
        assert Scorer(bundle).check_sample() > 0
        assert bundle.student is not None
        assert bundle.comment_student is not None
        assert bundle.comment_student.to_bytes() != bundle.student.to_bytes()
        assert bundle.manifest.metrics["student"]["comment_texts"] == bundle.manifest.metrics["student"]["texts"]


def test_a_worse_model_is_not_published_and_the_report_says_why(
    folder: Path, tmp_path: Path, served: Refreshed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offline_train.refresh.finetune", spoilt_training)
    bad = config(folder, tmp_path)
    done = refresh(bad, release=lambda registry, version: pytest.fail("released"))
    assert (done.outcome, done.version) == ("rejected", None)
    assert "is worse than the serving model's" in done.why
    assert json.loads(done.report.read_text())["why"] == done.why
    registry = Registry(tmp_path / "registry")
    assert registry.versions() == [served.version]
    assert registry.channel("stable") == served.version


def test_a_model_that_diverges_is_not_published(folder: Path, tmp_path: Path, served: Refreshed) -> None:
    bad = config(folder, tmp_path, train={**TRAIN, "learning_rate": 1e30})
    with pytest.raises(RefreshError, match="training failed, and nothing is published"):
        refresh(bad, release=lambda registry, version: pytest.fail("released"))
    assert Registry(tmp_path / "registry").versions() == [served.version]


#: a refresh whose process is killed inside the stage of this number: what the stage made never appears
_KILLED = """
import os, signal, sys
from pathlib import Path
from offline_train import refresh, stages
from offline_train.refresh_config import load_config
made, stage = [], stages.Work.stage
def dying(self, name, make):
    def and_die(folder):
        make(folder)
        made.append(name)
        os.kill(os.getpid(), signal.SIGKILL)
    return stage(self, name, and_die if not made else make)
def release(registry, version):
    registry.promote("stable", version)
    if sys.argv[2] == "release":
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "stage":
    stages.Work.stage = dying
done = refresh.refresh(load_config(Path(sys.argv[1])), release=release)
print(done.outcome)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_each_stage_it_ends_the_same(folder: Path, tmp_path: Path, served: Refreshed) -> None:
    file = tmp_path / "refresh.json"  # JSON is YAML
    places = {"archive": str(folder), "registry": str(tmp_path / "registry"), "work": str(tmp_path / "work")}
    file.write_text(json.dumps({**places, "train": TRAIN, "student": STUDENT, "gate": {"fewest": 10, "margin": 0.5}}))
    work, other = Path(places["work"]), tmp_path / "other"
    stages_seen: list[str] = []

    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _KILLED, str(file), how]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    for expected in ("serving", "texts", "model", "student", "bundle", "live", "measured"):
        done = run("stage")
        assert done.returncode == -signal.SIGKILL, done.stderr
        if not other.exists():  # the same plan is carried out without a kill, elsewhere
            other.mkdir()
            shutil.copytree(tmp_path / "registry", other / "registry")
            (other / "work" / "current").mkdir(parents=True)
            shutil.copy(work / "current" / "run.json", other / "work" / "current")
        stages_seen = [path.name for path in (work / "current").iterdir() if path.is_dir() and path.name[0] != "."]
        assert expected not in stages_seen, "killed before the stage was whole"
        # The next process finds the stage not done, makes it whole, and is killed in the one after.
        stage_only = run_stage(file, expected)
        assert stage_only.returncode == -signal.SIGKILL, stage_only.stderr
    assert Registry(places["registry"]).channel("stable") == served.version
    assert run("release").returncode == -signal.SIGKILL
    finished = run("not")
    assert finished.stdout.strip() == "published", finished.stderr

    alone = json.loads(file.read_text()) | {"registry": str(other / "registry"), "work": str(other / "work")}
    plan = json.loads((other / "work" / "current" / "run.json").read_text())
    twin = load_config(_written(other / "refresh.json", alone))
    (other / "work" / "current" / "run.json").write_text(json.dumps(plan | {"config": twin.digest()}))
    assert refresh(twin, release=promote).outcome == "published"
    one, two = Registry(places["registry"]), Registry(other / "registry")
    version = one.channel("stable")
    assert two.channel("stable") == version != served.version
    assert one.sha256(version) == two.sha256(version), "every byte of the bundle is the same"
    assert one.pointer("stable").previous == two.pointer("stable").previous == served.version


def run_stage(file: Path, name: str) -> subprocess.CompletedProcess[str]:
    """A refresh that is killed right after the stage of this name is whole."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom offline_train import refresh, stages\n"
        "from offline_train.refresh_config import load_config\nstage = stages.Work.stage\n"
        "def dying(self, name, make):\n    folder = stage(self, name, make)\n"
        "    if name == sys.argv[2]: os.kill(os.getpid(), signal.SIGKILL)\n    return folder\n"
        "stages.Work.stage = dying\n"
        "refresh.refresh(load_config(Path(sys.argv[1])), release=lambda *_: None)\n"
    )
    command = [sys.executable, "-c", code, str(file), name]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_two_refreshes_at_once_are_told_so(folder: Path, tmp_path: Path) -> None:
    with Work(tmp_path / "work"), pytest.raises(RefreshError, match=rf"under way in .*process {os.getpid()}"):
        refresh(config(folder, tmp_path), release=promote)


@pytest.mark.parametrize(("kilobytes", "where"), [(1, "first"), (400, "later")])
def test_a_full_disk_is_told_and_the_refresh_goes_on_with_room(
    folder: Path, tmp_path: Path, served: Refreshed, kilobytes: int, where: str
) -> None:
    file = _written(
        tmp_path / "refresh.json",
        {
            "archive": str(folder),
            "registry": str(tmp_path / "registry"),
            "work": str(tmp_path / "work"),
            "train": TRAIN,
            "student": STUDENT,
            "gate": {"fewest": 10, "margin": 0.5},
        },
    )
    command = [sys.executable, "-m", "infra.cli", "train", "refresh", "--config", str(file)]
    command += ["--bootstrap-servers", "127.0.0.1:1"]
    full = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        # Python would write modules' bytecode cut off at the limit, and leave it there for everyone.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, kilobytes << 10)),
    )
    assert full.returncode == 1
    assert "make room" in full.stderr, full.stderr
    assert "Traceback" not in full.stderr
    registry = Registry(tmp_path / "registry")
    assert registry.channel("stable") == served.version
    assert registry.versions() == [served.version]
    done = refresh(load_config(file), release=promote)
    assert done.outcome == "published"


def test_what_does_not_answer_is_told(folder: Path, tmp_path: Path) -> None:
    away = "http://127.0.0.1:1/registry"
    with pytest.raises(RefreshError, match=r"127\.0\.0\.1:1/registry does not answer .*nothing was released"):
        refresh(config(folder, tmp_path, registry=away), release=promote)
    assert not (tmp_path / "work" / "current" / "run.json").exists(), "it is found out before anything is done"


def test_too_few_new_events_are_no_reason(folder: Path, tmp_path: Path) -> None:
    done = refresh(config(folder, tmp_path, fewest_new_events=5), release=promote)
    assert (done.outcome, done.report) == ("skipped", None)
    assert "0 new records" in done.why


def test_text_axes_are_turned_back_to_the_serving_models(
    folder: Path, tmp_path: Path, served: Refreshed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offline_train.log import Log
    from offline_train.reference import Reference
    from offline_train.text import TextVectors
    from offline_train.warm_start import ColdError, aligned

    log = Log.read(folder)
    reference = Reference.load(tmp_path / "registry" / "checkpoints" / f"{served.version}.pt")
    titles, comments = reference.tables.titles.numpy(), reference.tables.comments.numpy()[:-1]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(256, 256)))[0].astype(np.float32)
    back = aligned(TextVectors(titles @ turn, comments @ turn, "svd"), log, reference)
    np.testing.assert_allclose(back.video, titles, atol=1e-5)
    np.testing.assert_allclose(back.comment, comments, atol=1e-5)
    nothing = TextVectors(np.zeros_like(titles), np.zeros_like(comments), "svd")
    with pytest.raises(ColdError, match="in common"):
        aligned(nothing, log, reference)

    # Titles and comments by text MLPs of their own: two spaces, each with a turn of its own.
    other = np.linalg.qr(np.random.default_rng(1).normal(size=(256, 256)))[0].astype(np.float32)
    crossed = comments[: len(titles)] @ other, titles[np.arange(len(comments)) % len(titles)] @ turn
    monkeypatch.setattr("offline_train.warm_start._FEWEST_TEXTS", 10)
    own = TextVectors(titles @ turn, comments @ other, "llm", crossed=crossed)
    reference.tables = replace(reference.tables, crossed=(torch.zeros(1), torch.zeros(1)))
    back = aligned(own, log, reference)
    np.testing.assert_allclose(back.video, titles, atol=1e-5)
    np.testing.assert_allclose(back.comment, comments, atol=1e-5)
    assert back.crossed is not None
    np.testing.assert_allclose(back.crossed[0], comments[: len(titles)], atol=1e-5)
    np.testing.assert_allclose(back.crossed[1][: len(titles)], titles, atol=1e-5)
    with pytest.raises(ColdError, match="have none"):
        aligned(TextVectors(titles, comments, "svd"), log, reference)
    # A serving model that was better with one of them goes on with that one.
    reference.tables = replace(reference.tables, crossed=None)
    own = TextVectors(titles[::-1], comments @ other, "llm", crossed=(titles @ other, comments))
    together = aligned(own, log, reference)
    assert together.crossed is None
    np.testing.assert_allclose(together.video, titles, atol=1e-5)


def test_the_example_is_the_default_and_mistakes_are_named(tmp_path: Path) -> None:
    assert load_config(ROOT / "infra" / "refresh.yaml") == RefreshConfig()
    changed = load_config(ROOT / "infra" / "refresh.yaml", ["train.epochs=3", "gate.margin=0.1", "archive=s3://b/a"])
    assert (changed.finetuning().epochs, changed.gate.margin, changed.archive) == (3, 0.1, "s3://b/a")
    for content, why in (
        ({"archve": "x"}, "archve"),
        ({"gate": {"margin": 2}}, "margin"),
        ({"train": {"epochs": "many"}}, "epochs"),
        ({"train": {"epoch": 1}}, "unknown epoch"),
        ([1], "names and values"),
    ):
        with pytest.raises(RefreshError, match=why):
            load_config(_written(tmp_path / "bad.yaml", content))
