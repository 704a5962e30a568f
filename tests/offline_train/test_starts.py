"""What stage 2 starts from."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from offline_train.corpus import Corpus, temporal_split  # noqa: E402
from offline_train.discriminant import discriminant  # noqa: E402
from offline_train.finetuning import finetune  # noqa: E402
from offline_train.finetuning_config import FinetuneConfig  # noqa: E402
from offline_train.log import Log  # noqa: E402
from offline_train.sr import SR, SRConfig  # noqa: E402
from offline_train.starts import TEXT_START  # noqa: E402
from offline_train.text import text_vectors  # noqa: E402
from streams.events import Comment, CommentInteraction, Video, VideoView  # noqa: E402

pytestmark = pytest.mark.train
QUICK = FinetuneConfig(epochs=6, batch=64, threads=1, learning_rate=3e-3)
SMALL = {"dim": 16, "feedforward": 32, "layers": 1}


def small(corpus):
    return SRConfig(len(corpus.log.video_ids), **SMALL)


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
    # Few titles span fewer directions than there are axes, so the last ones are all nothing but rounding.
    rounding = 1e-6 * along.max()
    assert along[-1] <= along.min() + rounding
    assert along[-1] <= titles.square().sum(0).min() + rounding


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


@pytest.mark.parametrize("pays", [True, False])
def test_a_map_of_comments_own_from_stage_1_gives_way_to_one_that_tells_users_apart(data, pays: bool):
    corpus = signed() if pays else data[0]
    split = temporal_split(corpus)
    texts = text_vectors(corpus.log, cutoff_ms=split.valid_ms)
    aligned = torch.eye(SMALL["dim"], texts.comment.shape[1]) * 0.2
    start = {"text.weight": aligned, "comment_text": aligned * 3, "apart": torch.tensor(True)}
    texts = dataclasses.replace(texts, start=start)
    run = finetune(corpus, split, texts, dataclasses.replace(QUICK, epochs=0), small(corpus))
    assert run.model.apart
    assert ("discriminant" in run.start) is pays
    assert ("as stage 1 left them" in run.start) is not pays
    assert torch.equal(run.model.comment_text, aligned * 3) is not pays
    comments = run.tables.comments[:-1]
    with torch.no_grad():
        length, before = (
            rows.norm(dim=-1).mean().item() for rows in (run.model.comment_map(comments), comments @ aligned.T * 3)
        )
    assert length == pytest.approx(before, rel=0.1), "candidates stay as long as they were"


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
