import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tastes  # noqa: E402

from offline_train import finetuning  # noqa: E402
from offline_train.batches import (  # noqa: E402
    Gatherer,
    ItemTables,
    comment_authors,
    popular_comments,
    preferences,
)
from offline_train.corpus import Corpus, leave_one_out, temporal_split  # noqa: E402
from offline_train.discriminant import discriminant  # noqa: E402
from offline_train.finetuning import FinetuneConfig, finetune, finetune_best, interacted, trainable  # noqa: E402
from offline_train.log import INTERACTION, VIEW, Log  # noqa: E402
from offline_train.negatives import CommentNegatives  # noqa: E402
from offline_train.sr import SR, SRConfig  # noqa: E402
from offline_train.starts import TEXT_START  # noqa: E402
from offline_train.text import TextVectors, text_vectors  # noqa: E402
from offline_train.validation import Score, Validator  # noqa: E402
from streams.events import Comment, CommentInteraction, Video, VideoView  # noqa: E402

pytestmark = pytest.mark.train
QUICK = FinetuneConfig(epochs=6, batch=64, threads=1, learning_rate=3e-3)
SMALL = {"dim": 16, "feedforward": 32, "layers": 1}


@pytest.fixture(scope="module")
def data():
    corpus = Corpus.build(tastes.log())
    split = temporal_split(corpus)
    return corpus, split, text_vectors(corpus.log, cutoff_ms=split.valid_ms)


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


def test_the_same_seed_gives_the_same_model(data):
    config = dataclasses.replace(QUICK, epochs=1)
    a, b = (finetune(*data, config, small(data[0])).model.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = finetune(*data, dataclasses.replace(config, seed=1), small(data[0])).model.state_dict()
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


def test_a_model_that_knows_nothing_is_never_chosen_and_one_that_counted_or_was_aligned_may_be(data):
    config = dataclasses.replace(QUICK, epochs=1, learning_rate=1e-12)
    assert finetune(*data, config, small(data[0]), initial=lambda model: TEXT_START).best_epoch == 1
    counted = finetune(*data, config, small(data[0]))
    assert counted.start.startswith("counts")
    assert counted.best_epoch == 0
    corpus, split, texts = data
    aligned = dataclasses.replace(texts, start={})
    assert finetune(corpus, split, aligned, config, small(corpus), initial=lambda model: TEXT_START).best_epoch == 0


def test_a_start_from_counts_does_not_lean_on_axes_that_stage_1_has_turned(data):
    corpus, split, texts = data
    config = dataclasses.replace(QUICK, epochs=0)
    seen = {}

    class Spied(SR):
        def start_from_counts(self, factors, popularity, titles, prior, axes=None):
            seen.setdefault("axes", axes)
            super().start_from_counts(factors, popularity, titles, prior, axes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offline_train.finetuning.SR", Spied)
        finetune(*data, config, small(corpus))
        assert seen.pop("axes") is None
        backwards = 3 * torch.eye(16, texts.video.shape[1]).flip(0)
        aligned = dataclasses.replace(texts, start={"text.weight": backwards})
        finetune(corpus, split, aligned, config, small(corpus))
    titles = torch.from_numpy(texts.video) @ backwards.T
    along = (titles @ seen["axes"]).square().sum(0)
    assert along.argmin() == 15
    assert along[-1] <= titles.square().sum(0).min() * (1 + 1e-4)


def test_profiles_start_from_the_half_life_that_ranks_best():
    """What a user watches next is of the kind of the last two, and of no other."""
    random = np.random.default_rng(0)
    catalog = [Video(f"v{i}", "nothing to tell", created_ms=0) for i in range(120)]
    views = []
    for user in range(200):
        for step, video in enumerate(i for kind in random.permutation(40)[:6] for i in range(3 * kind, 3 * kind + 3)):
            views.append(VideoView(f"w{user}-{step}", f"u{user}", f"v{video}", 1 + step * 1000 + user, 20_000))
    corpus = Corpus.build(Log.build(iter(catalog), iter(views)))
    split = temporal_split(corpus)
    run = finetune(
        corpus,
        split,
        text_vectors(corpus.log, cutoff_ms=split.valid_ms),
        dataclasses.replace(QUICK, epochs=0),
        small(corpus),
    )
    assert 2 ** run.model.encoder.video_half_life.item() <= 2
    assert "video half-life" in run.start


def signed():
    """A log in which a quiet pair of words says whose a comment is, among loud ones about topics."""
    random = np.random.default_rng(0)
    users, videos, topics = 40, 60, [[f"t{k}{i}" for i in range(6)] for k in range(12)]
    catalog, views = (
        [Video(f"v{i}", " ".join(random.choice(topics[i % 12], 3)), created_ms=0) for i in range(videos)],
        [],
    )
    for user in range(users):
        for step, video in enumerate(random.permutation(videos)[:24]):
            loud = " ".join(random.choice(topics[random.integers(12)], 9))
            name = f"{user}-{step}"
            catalog.append(Comment(f"c{name}", f"v{video}", f"{loud} m{user % 8} n{user // 8}", created_ms=1))
            ts_ms = 1000 + step * 3_600_000 + user
            views.append(CommentInteraction(f"l{name}", f"u{user}", f"v{video}", f"c{name}", ts_ms, "like"))
    return Corpus.build(Log.build(iter(catalog), iter(views)))


@pytest.mark.parametrize("pays", [True, False])
def test_comments_get_a_map_of_their_own_where_it_tells_users_apart(data, pays: bool):
    corpus = signed() if pays else data[0]  # where topics are all that there is to like, A finds them
    split = temporal_split(corpus)
    texts = text_vectors(corpus.log, cutoff_ms=split.valid_ms)
    run, start = (
        finetune(corpus, split, texts, dataclasses.replace(QUICK, epochs=epochs), small(corpus)) for epochs in (1, 0)
    )
    comments = run.tables.comments[:5]
    for model in (run.model, start.model):
        assert bool(model.apart) is pays
        assert torch.equal(model.comment_map(comments), model.text(comments)) is not pays
    assert ("comments apart" in run.start) is pays
    learned = not torch.equal(run.model.comment_text, start.model.comment_text)
    assert learned is pays, "it learns where it is used"


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


def test_whole_users_tell_where_comments_are_too_many(monkeypatch):
    corpus = signed()
    split = temporal_split(corpus)
    texts = text_vectors(corpus.log, cutoff_ms=split.valid_ms)
    seen = []

    def spied(vectors, user, dim, shrinkage):
        seen.append(np.unique(user, return_counts=True)[1])
        return discriminant(vectors, user, dim, shrinkage)

    monkeypatch.setattr("offline_train.starts.discriminant", spied)
    monkeypatch.setattr("offline_train.starts._MOST_COMMENTS", 200)
    run = finetune(corpus, split, texts, dataclasses.replace(QUICK, epochs=0), small(corpus))
    assert "comments apart" in run.start
    for counts in seen:
        assert counts.sum() == 200
        assert np.median(counts) > 10, "of a few users all, not of all a few"


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


# --- what a batch shows -----------------------------------------------------------------------------------------------


def story():
    """`first` and `second` of v0 and v1; u is the author of `first`, which is the popular one of v0."""
    catalog = [
        Video("v0", "zero"),
        Video("v1", "one"),
        Comment("first", "v0", "mine", user_id="u", created_ms=1),
        Comment("second", "v1", "theirs", user_id="w", created_ms=5000),
    ]
    events = [
        VideoView("a", "u", "v0", 100, 20_000),
        VideoView("a2", "w", "v0", 110, 20_000),
        CommentInteraction("b", "w", "v0", "first", 120, "like"),
        VideoView("c", "u", "v1", 200, 20_000),
        VideoView("c2", "w", "v1", 210, 20_000),
        CommentInteraction("d", "u", "v1", "second", 6000, "like"),
        CommentInteraction("e", "w", "v1", "second", 7000, "like"),
        VideoView("f", "u", "v2", 9000, 20_000),
        VideoView("g", "u", "v3", 9500, 20_000),
    ]
    corpus = Corpus.build(Log.build(iter(catalog), iter(events)))
    split = dataclasses.replace(temporal_split(corpus), valid_ms=8000)
    return corpus, split


def shown(corpus, split, event, training):
    tables = ItemTables.build(
        text_vectors(corpus.log), popular_comments(corpus.log, corpus, split), corpus.log.first_seen_video
    )
    row = np.flatnonzero(corpus.samples.event_index == corpus.log.event_ids.index(event))
    batch = Gatherer(corpus, tables).batch(corpus.samples.take(row), training=training)
    names = [*corpus.log.comment_ids, None]
    return [names[c] for c in batch.video_comment[0][: batch.video_length[0]]]


def test_popular_comments_come_from_the_training_period():
    corpus, split = story()
    popular = popular_comments(corpus.log, corpus, split)
    names = [*corpus.log.comment_ids, None]
    assert [names[c] for c in popular] == ["first", "second", None, None]
    early = popular_comments(corpus.log, corpus, dataclasses.replace(split, valid_ms=4000))
    assert [names[c] for c in early] == ["first", None, None, None]


def test_in_training_nobody_is_shown_their_own_comment():
    corpus, split = story()
    assert shown(corpus, split, "c", training=True) == [None]
    assert shown(corpus, split, "c2", training=True) == ["first"]


def test_in_training_a_comment_is_not_shown_before_it_existed():
    corpus, split = story()
    assert shown(corpus, split, "d", training=True) == [None, "second"]
    second = dataclasses.replace(corpus, samples=corpus.samples)
    second.log.first_seen_comment[1] = 6000  # as if the target's own event had brought it
    assert shown(second, split, "d", training=True) == [None, None]


def test_later_samples_are_shown_what_serving_shows():
    corpus, split = story()
    assert shown(corpus, split, "g", training=False) == ["first", "second", None]


def test_leave_one_out_counts_no_held_out_event():
    log = tastes.log()
    corpus = Corpus.build(log)
    split = leave_one_out(corpus)
    popular = popular_comments(log, corpus, split)
    held = np.concatenate((split.valid, split.test))
    engaged = (log.kind == INTERACTION) & log.engaged
    engaged[corpus.samples.event_index[held]] = False
    count = np.bincount(log.comment[engaged], minlength=len(log.comment_ids))
    for video, comment in enumerate(popular):
        if comment >= 0:
            assert count[comment] == count[log.comment_video == video].max()


def test_an_author_is_known_from_the_event_of_writing():
    log = Log.build(iter(()), iter([CommentInteraction("e", "u", "v", "c", 1, "write")]))
    assert comment_authors(log).tolist() == [0]


def test_only_videos_of_training_samples_have_an_id(data):
    corpus, split, _ = data
    known = interacted(corpus, split).astype(bool)
    assert set(np.flatnonzero(known)) == set(corpus.samples.target_video[split.train])


def test_an_unknown_video_and_no_comment_are_zero_vectors(data):
    corpus, _, texts = data
    tables = ItemTables.build(texts, np.full(len(texts.video), -1), corpus.log.first_seen_video)
    assert not tables.comments[tables.popular].any()
    model = SR(small(corpus)).eval()
    row = corpus.samples.take(np.array([50]))
    batch = Gatherer(corpus, tables).batch(row, training=False)
    unknown = dataclasses.replace(batch, current=torch.tensor([len(corpus.log.video_ids)]))
    assert all(torch.isfinite(p).all() for p in preferences(model, tables, unknown))


# --- negatives --------------------------------------------------------------------------------------------------------


def draw(corpus, rows, count=19, cutoff=10**12):
    samples = corpus.samples.take(rows)
    return samples, *CommentNegatives(corpus.log, cutoff).draw(samples, count, np.random.default_rng(0))


def test_negatives_are_others_of_the_same_video_that_were_there(data):
    corpus, _, _ = data
    log = corpus.log
    rows = np.flatnonzero(corpus.samples.kind == INTERACTION)
    samples, negatives, usable = draw(corpus, rows, count=5)
    assert (negatives != samples.target_comment[:, None]).all()
    assert (log.comment_video[negatives] == samples.target_video[:, None]).all()
    assert (log.first_seen_comment[negatives] <= samples.ts_ms[:, None]).all()
    texts = np.array(log.comment_texts, object)
    assert ((texts[negatives] != texts[samples.target_comment][:, None]) == usable).all()


def test_a_video_with_few_comments_gives_each_once(data):
    corpus, _, _ = data
    rows = np.flatnonzero(corpus.samples.kind == INTERACTION)[:20]
    samples, negatives, usable = draw(corpus, rows)
    same = corpus.log.comment_video[negatives] == samples.target_video[:, None]
    assert same[:, :7].all()
    assert not usable[:, 7:].any()
    for row in negatives[:, :7]:
        assert len(set(row)) == 7


def test_a_video_without_other_comments_gets_those_of_any_video():
    events = [CommentInteraction(f"e{i}", "u", f"v{i}", f"c{i}", 100 * i, "like") for i in range(10)]
    catalog = [Comment(f"c{i}", f"v{i}", f"text {i}") for i in range(10)]
    corpus = Corpus.build(Log.build(iter(catalog), iter(events)))
    _, negatives, usable = draw(corpus, np.array([6]))
    assert set(negatives[0]) <= set(range(7))
    assert usable[0].any()
    assert (usable[0] == (negatives[0] != 6)).all()


def test_where_the_target_is_written_later_comments_may_be_drawn():
    events = [CommentInteraction(f"e{i}", f"u{i}", "v", f"c{i}", 100 * i, "write") for i in range(10)]
    corpus = Corpus.build(Log.build(iter(()), iter(events)))
    _, negatives, _ = draw(corpus, np.array([0]), count=4, cutoff=500)
    assert set(negatives[0]) <= {1, 2, 3, 4}
    assert len(set(negatives[0])) > 1
    assert (corpus.samples.kind != VIEW).all()


def test_the_comment_loss_finds_its_own_temperature(monkeypatch, data):
    made = []

    class Seen(finetuning._Losses):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(finetuning, "_Losses", Seen)
    corpus, split, texts = data
    config = dataclasses.replace(QUICK, epochs=2)
    random = np.random.default_rng(0)
    samples = trainable(corpus.samples.take(split.train), "comment")

    found = finetune(corpus, split, texts, config, small(corpus))
    (losses,) = made
    assert losses.scale.item() != finetuning._SCALE
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
