import dataclasses
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from offline_train import finetuning  # noqa: E402
from offline_train.batches import (  # noqa: E402
    Gatherer,
    ItemTables,
    preferences,
)
from offline_train.corpus import Corpus, temporal_split  # noqa: E402
from offline_train.finetuning import finetune, finetune_best, trainable  # noqa: E402
from offline_train.finetuning_config import FinetuneConfig  # noqa: E402
from offline_train.finetuning_losses import SCALE  # noqa: E402
from offline_train.log import Log  # noqa: E402
from offline_train.sr import SR, SRConfig  # noqa: E402
from offline_train.starts import TEXT_START  # noqa: E402
from offline_train.text import TextVectors, text_vectors  # noqa: E402
from offline_train.validation import Score, Validator  # noqa: E402
from streams.events import VideoView  # noqa: E402

pytestmark = pytest.mark.train
QUICK = FinetuneConfig(epochs=6, batch=64, threads=1, learning_rate=3e-3)
SMALL = {"dim": 16, "feedforward": 32, "layers": 1}


def small(corpus):
    return SRConfig(len(corpus.log.video_ids), **SMALL)


@pytest.fixture(scope="module")
def trained(data):
    return finetune(*data, QUICK, small(data[0]), initial=lambda model: TEXT_START)  # counting leaves little to learn


def test_training_learns_both_tasks(trained):
    first, best = trained.curve[0], trained.curve[trained.best_epoch]
    assert trained.best_epoch > 0
    assert best.score > first.score
    assert best.score == max(point.score for point in trained.curve)
    assert trained.curve[-1].loss < trained.curve[1].loss


def test_the_best_weights_are_kept(data, trained):
    corpus, split, _ = data
    score = Validator(corpus, split, trained.tables, "joint", QUICK.seed)(trained.model)
    assert score.joint == pytest.approx(trained.curve[trained.best_epoch].score, abs=1e-6)


def test_what_is_kept_is_a_running_mean_of_the_weights(data):
    models, mean, kept = [], {}, {}
    config = dataclasses.replace(QUICK, epochs=3, averaging=0.7)

    def start(model):
        models.append(model)
        return TEXT_START

    def after_a_batch(progress):
        for name, value in models[0].named_parameters():
            mean[name] = 0.7 * mean[name] + 0.3 * value.detach() if name in mean else value.detach().clone()
        kept[progress.epoch] = {name: value.clone() for name, value in mean.items()}

    found = finetune(*data, config, small(data[0]), after_a_batch, start)
    assert found.best_epoch > 0
    for name, value in found.model.named_parameters():
        assert torch.allclose(value, kept[found.best_epoch][name], atol=1e-6), name


@pytest.mark.parametrize("parts", [1, 2])
def test_the_same_seed_gives_the_same_model(data, parts: int):
    corpus, split, texts = data
    texts = dataclasses.replace(texts, crossed=(texts.video, texts.comment) if parts == 2 else None)
    config = dataclasses.replace(QUICK, epochs=1)
    first, second = (finetune(corpus, split, texts, config, small(corpus)) for _ in range(2))
    assert len(first.curve) == 1 + parts
    assert [dataclasses.replace(point, seconds=0) for point in first.curve] == [
        dataclasses.replace(point, seconds=0) for point in second.curve
    ]
    a, b = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = finetune(corpus, split, texts, dataclasses.replace(config, seed=1), small(corpus)).model.state_dict()
    assert any(not torch.equal(a[name], other[name]) for name in a)


def test_part_of_the_samples_sees_recent_videos_without_their_ids(data):
    corpus, _, texts = data
    model = SR(small(corpus)).eval()
    tables = ItemTables.build(texts, np.full(len(texts.video), -1), np.arange(len(texts.video)))
    row = corpus.samples.take(np.array([400]))
    gatherer = Gatherer(corpus, tables)

    def preference(known_ms):
        batch = gatherer.batch(row, training=True, known_ms=None if known_ms is None else np.array([known_ms]))
        return preferences(model, tables, batch)[0]

    assert torch.equal(preference(None), preference(len(texts.video)))
    assert not torch.allclose(preference(None), preference(0), atol=1e-3)
    with torch.no_grad():
        model.ids.weight.zero_()
    assert torch.allclose(preference(None), preference(0))


class Scripted(Validator):
    """Gives these scores, one after the other."""

    script: ClassVar[list[float]] = []

    def __call__(self, model):
        return Score(self.script.pop(0), None) if self.script else super().__call__(model)


@pytest.mark.parametrize("gains", [True, False])
def test_comments_train_on_when_titles_with_a_text_mlp_of_their_own_are_at_their_best(monkeypatch, data, gains: bool):
    corpus, split, texts = data
    left = []

    def leave(model):
        left.append({name: value.clone() for name, value in model.state_dict().items()})
        to_comments(model)
        Scripted.script = [3.0 if gains else 1.5, 1.0, 1.0]

    to_comments = finetuning._leave_to_comments
    monkeypatch.setattr(finetuning, "_leave_to_comments", leave)
    monkeypatch.setattr(finetuning, "Validator", Scripted)
    Scripted.script = [1.0, 2.0, 1.0]
    config = dataclasses.replace(QUICK, patience=1)

    def own_map(model):
        model.apart.fill_(True)
        return TEXT_START

    two = dataclasses.replace(texts, crossed=(texts.video, texts.comment))
    run = finetune(corpus, split, two, config, small(corpus), initial=own_map)
    assert [point.score for point in run.curve][:4] == pytest.approx([1.0, 2.0, 1.0, 3.0 if gains else 1.5])
    assert len(run.curve) == (5 if gains else 4), "the patience of both parts"
    assert run.best_epoch == (3 if gains else 1)
    for point, weight in ((run.curve[1], 1.0), (run.curve[3], finetuning._COMMENTS_COUNT)):
        parts = point.video_loss + weight * point.comment_loss + point.contrast_loss
        assert point.loss == pytest.approx(parts, rel=1e-5)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, left[0][name])}
    assert {name.split(".")[1] if "." in name else name for name in changed} == (
        {
            "comment_text", "comment_history", "comment_cross", "comment_fusion", "comment_attention", "comment_norm",
            "comment_profile", "comment_half_life",
        }
        if gains
        else set()
    )  # fmt: skip


@pytest.mark.parametrize(("own", "task"), [(False, "joint"), (True, "comment"), (True, "video")])
def test_nothing_trains_on_where_one_mlp_reads_all_or_a_task_is_alone(monkeypatch, data, own: bool, task: str):
    corpus, split, texts = data
    monkeypatch.setattr(finetuning, "Validator", Scripted)
    Scripted.script = [1.0, 2.0, 1.0, 9.0]

    def start(model):
        model.apart.fill_(True)
        return TEXT_START

    texts = dataclasses.replace(texts, crossed=(texts.video, texts.comment) if own else None)
    config = dataclasses.replace(QUICK, patience=1, task=task)
    run = finetune(corpus, split, texts, config, small(corpus), initial=start)
    assert (run.best_epoch, len(run.curve)) == (1, 3)


@pytest.mark.parametrize("own", [True, False])
def test_titles_keep_their_own_text_mlp_where_validation_is_better_for_it(data, own: bool):
    corpus, split, texts = data
    noise = np.random.default_rng(0).normal(size=texts.video.shape).astype(np.float32)
    weights = small(corpus)
    start = {"text.weight": torch.eye(weights.dim, texts.video.shape[1]) * 0.2, "apart": torch.tensor(True)}
    titles = (texts.video, noise) if own else (noise, texts.video)
    two = TextVectors(titles[0], texts.comment, "x", start=start, crossed=(titles[1], texts.comment))
    config = dataclasses.replace(QUICK, epochs=2, task="video")
    run = finetune_best(corpus, split, two, config, weights)
    assert bool(run.model.apart) is own
    assert (run.tables.crossed is not None) is own
    assert torch.equal(run.tables.titles, torch.from_numpy(texts.video))
    assert "comments apart as stage 1 left them" in run.start or not own


def test_it_stops_without_a_gain(data):
    config = dataclasses.replace(QUICK, epochs=30, patience=2, learning_rate=1e-12)
    run = finetune(*data, config, small(data[0]))
    assert len(run.curve) == run.best_epoch + 3


@pytest.mark.parametrize("task", ["video", "comment"])
def test_a_single_task_trains_and_validates_itself_alone(data, task):
    run = finetune(*data, dataclasses.replace(QUICK, task=task, epochs=1), small(data[0]))
    point = run.curve[1]
    other = "comment" if task == "video" else "video"
    assert getattr(point, f"{task}_loss") > 0
    assert getattr(point, f"{other}_loss") == 0
    assert getattr(point, f"{task}_ndcg5") is not None
    assert getattr(point, f"{other}_ndcg5") is None


def test_progress_is_reported_per_batch(data):
    points = []
    config = dataclasses.replace(QUICK, epochs=1, epoch_samples=200)
    finetune(*data, config, small(data[0]), report=points.append)
    assert [point.batch for point in points] == [1, 2, 3, 4]
    assert {point.batches for point in points} == {4}
    assert all(point.samples_per_second > 0 for point in points)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="known: video, comment, joint"):
        FinetuneConfig(task="both")


def test_a_task_without_samples_is_refused():
    log = Log.build(iter(()), iter([VideoView(f"e{i}", "u", f"v{i}", i, 20_000) for i in range(20)]))
    corpus = Corpus.build(log)
    split = temporal_split(corpus)
    with pytest.raises(ValueError, match="no sample for task comment"):
        finetune(corpus, split, text_vectors(log), dataclasses.replace(QUICK, task="comment"))


def test_a_log_without_comments_trains():
    log = Log.build(iter(()), iter([VideoView(f"e{i}", f"u{i % 3}", f"v{i % 7}", i, 20_000) for i in range(40)]))
    corpus = Corpus.build(log)
    run = finetune(corpus, temporal_split(corpus), text_vectors(log), dataclasses.replace(QUICK, epochs=1))
    assert np.isfinite(run.curve[-1].loss)


def test_a_video_seen_before_is_no_target():
    log = Log.build(iter(()), iter([VideoView(f"e{i}", "u", f"v{i % 2}", i, 20_000) for i in range(6)]))
    samples = Corpus.build(log).samples
    assert len(trainable(samples, "video")) == 2
    assert len(trainable(samples, "comment")) == 0


def test_the_score_is_a_geometric_mean():
    assert Score(0.1, 0.4).joint == pytest.approx(0.2)
    assert Score(None, 0.4).joint == pytest.approx(0.4)
    assert Score(None, None).joint == 0


def test_the_comment_loss_finds_its_own_temperature(monkeypatch, data):
    made = []

    class Seen(finetuning.Losses):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(finetuning, "Losses", Seen)
    corpus, split, texts = data
    config = dataclasses.replace(QUICK, epochs=2)
    random = np.random.default_rng(0)
    samples = trainable(corpus.samples.take(split.train), "comment")

    found = finetune(corpus, split, texts, config, small(corpus))
    (losses,) = made
    assert losses.scale.item() != SCALE
    # A preference that says nothing of comments: the less it is believed, the better.
    preference = torch.from_numpy(random.normal(size=(len(samples), 16)).astype(np.float32)) * 30
    everything = np.ones(len(samples), bool)
    values = {}
    for scale in (0.0, -2.0, -20.0):
        losses.scale.data.fill_(scale)
        losses.random = np.random.default_rng(1)
        values[scale] = losses.comment(found.model, preference, samples, everything)
    assert values[0.0] > values[-2.0] > values[-20.0]
    losses.random = np.random.default_rng(1)
    usable = losses.negatives.draw(samples, config.comment_negatives, losses.random)[1].sum(1)
    assert values[-20.0].item() == pytest.approx(np.log(1 + usable).mean(), abs=1e-4)  # chance
    losses.scale.data.fill_(0.0)
    losses.comment(found.model, preference, samples, everything).backward()
    assert losses.scale.grad.item() > 0  # a step of descent believes it less
