"""What stage 1 is shown: samples drawn of the log, and what the heads make of any such batch."""

import dataclasses

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import tastes  # noqa: E402

from offline_train.alignment_model import Aligner  # noqa: E402
from offline_train.alignment_samples import AlignmentBatch, DrawConfig, Drawer  # noqa: E402
from offline_train.corpus import Corpus, temporal_split  # noqa: E402
from offline_train.embedding import CorpusTexts  # noqa: E402
from offline_train.log import INTERACTION, VIEW, Log  # noqa: E402
from offline_train.sr import SRConfig  # noqa: E402
from streams.events import Video  # noqa: E402

pytestmark = pytest.mark.train
DIM = 48
FEW = DrawConfig(history=4, prompt_history=2)


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return Aligner(SRConfig(videos=1, dropout=0.0), DIM, False)


def drawn_texts(drawn):
    """Every text that the SR or the LLM is shown of some samples, targets not included."""
    shown = {piece for d in drawn for piece in d.prompt if isinstance(piece, int)}
    shown |= {text for d in drawn for pair in d.videos for text in pair} | {d.query for d in drawn}
    return shown | {text for d in drawn for title, texts in d.comments for text in (title, *texts)}


def test_no_target_text_is_shown_to_either_side():
    catalog, events = tastes.records()
    # Every text says its own id, so that a text tells where it comes from.
    unique = [
        msgspec.structs.replace(e, **({"title": e.video_id} if isinstance(e, Video) else {"text": e.comment_id}))
        for e in catalog
    ]
    corpus = Corpus.build(Log.build(iter(unique), iter(events)))
    split = temporal_split(corpus)
    drawer = Drawer(corpus, split, CorpusTexts.of(corpus.log, split.valid_ms), DrawConfig(), 0)
    assert (corpus.log.ts_ms[drawer.samples.event_index] < split.valid_ms).all()
    for row in range(0, len(drawer.samples), 5):
        drawn = drawer.draw(row)
        shown = drawn_texts([drawn])
        assert drawn.target not in shown
        assert shown - {-1} <= set(drawer.may_show(row).tolist())


def test_empty_histories_give_numbers(data, heads):
    corpus, split, _ = data
    drawer = Drawer(corpus, split, CorpusTexts.of(corpus.log, split.valid_ms), FEW, 0)
    drawn = [drawer.draw(row) for row in drawer.choose(6)]
    none = np.zeros(0, np.int64)
    drawn[0] = dataclasses.replace(drawn[0], videos=[], video_at=none)
    drawn[1] = dataclasses.replace(drawn[1], comments=[], comment_at=none)
    drawn[2] = dataclasses.replace(drawn[2], videos=[], comments=[], video_at=none, comment_at=none)
    batch = AlignmentBatch.of(drawn)
    pooled = torch.randn(len(batch.texts), DIM, requires_grad=True)
    parts = heads(batch, pooled, torch.randn(6, DIM), 0.07)
    (parts.rec + parts.align).backward()
    assert torch.isfinite(parts.rec + parts.align)
    assert torch.isfinite(pooled.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters() if p.grad is not None)


def test_both_kinds_and_all_positions_are_drawn(data):
    corpus, split, _ = data
    drawer = Drawer(corpus, split, CorpusTexts.of(corpus.log, split.valid_ms), DrawConfig(video_share=0.25), 0)
    rows = drawer.choose(40)
    assert (drawer.samples.kind[rows] == VIEW).sum() == 10
    places = np.concatenate([drawer.draw(int(row)).video_at for row in rows])
    assert places.max() > 40
    assert all((np.diff(drawer.draw(int(row)).video_at) > 0).all() for row in rows)


def test_comments_of_one_video_come_in_groups(data):
    corpus, split, _ = data
    texts = CorpusTexts.of(corpus.log, split.valid_ms)

    def drawn(same_video, count=0):
        drawer = Drawer(corpus, split, texts, DrawConfig(same_video=same_video), 0)
        rows = drawer.choose(count)
        return rows, drawer.samples.kind[rows] == INTERACTION, drawer.samples.target_video[rows]

    rows, comment, video = drawn(4)
    assert sorted(rows) == sorted(drawn(1)[0])
    runs = np.split(np.arange(len(rows)), np.flatnonzero((np.diff(video) != 0) | ~comment[1:] | ~comment[:-1]) + 1)
    groups = [len(run) for run in runs if comment[run[0]]]
    expected = np.bincount(video[comment])
    assert max(groups) >= 4
    # A video's comments are in full groups but for one rest; two groups may happen to be neighbours.
    assert len(groups) <= sum(-(-n // 4) for n in expected if n)
    assert len(groups) > 0.8 * sum(-(-n // 4) for n in expected if n)
    # No kind and no video comes earlier for being in a group.
    place = np.arange(len(rows)) / len(rows)
    assert place[comment].mean() == pytest.approx(0.5, abs=0.05)
    often = comment & np.isin(video, np.argsort(expected)[-5:])
    assert place[often].mean() == pytest.approx(0.5, abs=0.15)


def test_a_kind_that_cannot_be_told_is_believed_less(data, heads):
    """Where comment targets are anybody's, descent lowers the scale of comments, and leaves that of videos."""
    corpus, split, _ = data
    texts = CorpusTexts.of(corpus.log, split.valid_ms)
    drawer = Drawer(corpus, split, texts, FEW, 0)
    rows = np.flatnonzero(drawer.samples.kind == INTERACTION)[:48]
    batch = AlignmentBatch.of([drawer.draw(int(row)) for row in rows])
    for name in ("target", "target_text"):
        batch.columns[name] = np.roll(batch.columns[name], 1)
    heads.eval()
    heads.scale.data.fill_(0.0)  # as sure as .07 says
    torch.manual_seed(0)
    pooled, states = torch.randn(len(batch.texts), DIM), torch.zeros(len(rows), DIM)
    heads(batch, pooled, states, 0.07).rec.backward()
    of_comments, of_videos = heads.scale.grad.tolist()
    assert of_comments > 0
    assert of_videos == 0
