"""The SR at every position at once: what one pass gives is what a pass per prefix gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from offline_train.metrics import per_target
from offline_train.sources import amazon_beauty
from offline_train.sources.amazon_beauty import Sequences
from offline_train.sources.writer import SourceError
from offline_train.sr import SR, Attention, Side, SRConfig
from offline_train.study.beauty import course
from offline_train.study.sequences import (
    SequenceConfig,
    next_item_loss,
    padded,
    prefix_preferences,
    rank_last,
    rank_unseen,
    train,
)

pytestmark = pytest.mark.train


def cycles(users: int = 60, items: int = 12, length: int = 9) -> Sequences:
    """Everyone goes round the items in the same order, from another place each."""
    flat = np.concatenate([(np.arange(length) + u) % items for u in range(users)])
    return Sequences(np.arange(users + 1) * length, flat, items)


@pytest.fixture
def model() -> SR:
    torch.manual_seed(3)
    return SR(SRConfig(12, text_dim=1, dim=16, window=10)).eval()


def test_every_prefix_is_as_the_encoder_gives_it_alone(model: SR) -> None:
    items = torch.tensor([[1, 5, 2, 7], [3, 4, 0, 0]])
    present = torch.tensor([[True] * 4, [True, True, False, False]])
    ids = F.embedding(items, model.id_vectors())
    together = prefix_preferences(model.encoder, Side(ids, torch.zeros_like(ids), torch.zeros_like(ids), present))
    for row, length in ((0, 1), (0, 2), (0, 4), (1, 1), (1, 2)):
        one, nothing = ids[row : row + 1, :length], torch.zeros(1, length, 16)
        empty = torch.zeros(1, 1, 16)
        alone, _ = model.encoder(
            one, nothing, nothing, torch.tensor([length]), empty, empty, empty, torch.tensor([0]), torch.zeros(1, 16)
        )
        torch.testing.assert_close(together[row, length - 1], alone[0])


def test_the_loss_is_the_mean_over_positions_of_a_softmax_over_what_was_not_seen(model: SR) -> None:
    items, present = torch.tensor([[1, 5, 2], [3, 4, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    loss = next_item_loss(model, [(items, present)])
    apart = next_item_loss(model, [(items[:1], present[:1]), (items[1:, :2], present[1:, :2])])
    ids = model.id_vectors()
    by_hand = []
    for history, target in (([1], 5), ([1, 5], 2), ([3], 4)):
        one = F.embedding(torch.tensor([history]), ids)
        side = Side(one, torch.zeros_like(one), torch.zeros_like(one), torch.ones(1, len(history), dtype=torch.bool))
        scores = prefix_preferences(model.encoder, side)[0, -1] @ F.normalize(ids, dim=-1).T
        left = [i for i in range(12) if i not in history]
        by_hand.append(scores[left].logsumexp(0) - scores[target])
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    torch.testing.assert_close(apart, loss)


def test_training_learns_the_order_and_is_the_same_again() -> None:
    config = SequenceConfig(epochs=30, batch=16, dropout=0.1, learning_rate=3e-3, counts=False)
    first, second = (train(cycles(), config) for _ in range(2))
    assert per_target(rank_last(first.model, cycles()), "recall", 1).mean() > 0.9
    assert [e.loss for e in first.curve] == [e.loss for e in second.curve]


def test_what_is_configured_reaches_the_model_and_attention_drops_only_in_training() -> None:
    config = SequenceConfig(epochs=0, dropout=0.4, profile=5.0, temperature=0.2)
    model = train(cycles(), config).model
    given = model.config
    assert (given.dropout, given.attention_dropout, given.profile, given.temperature) == (0.4, 0.4, 5.0, 0.2)
    attention = Attention(SRConfig(12, dim=16, attention_dropout=0.5))
    x, visible = torch.randn(3, 6, 16), torch.ones(3, 1, 6, dtype=torch.bool)
    assert not torch.equal(attention.train()(x, x, visible), attention(x, x, visible))
    assert torch.equal(attention.eval()(x, x, visible), attention(x, x, visible))


def test_what_was_had_before_competes_no_more() -> None:
    history = Sequences(np.array([0, 2]), np.array([0, 1]), 4)
    ranks = rank_unseen(lambda users: np.array([[9.0, 8.0, 1.0, 2.0]]), history, np.array([2]))
    assert ranks.above.tolist() == [1]


def test_sequences_without_their_last_items() -> None:
    data = Sequences(np.array([0, 3, 7]), np.array([0, 1, 2, 3, 4, 5, 6]), 7)
    assert data.last().tolist() == [2, 6]
    assert data.without_last(2).items.tolist() == [0, 3, 4]
    assert data.without_last(2).offsets.tolist() == [0, 1, 3]
    newest, there = padded(data, np.array([0, 1]), 3)
    assert newest[1].tolist() == [4, 5, 6]
    assert there.all()


def test_the_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / amazon_beauty.FILE).write_text("1 10 30 20\n2 30 10 10 40\n")
    data = amazon_beauty.read(tmp_path)
    assert (len(data), data.count) == (2, 4)
    assert data.items.tolist() == [0, 2, 1, 2, 0, 0, 3]
    (tmp_path / amazon_beauty.FILE).write_text("1 10 30\n")
    with pytest.raises(SourceError, match="line 1: 2 items"):
        amazon_beauty.read(tmp_path)
    with pytest.raises(SourceError, match="missing"):
        amazon_beauty.read(tmp_path / "none")


def test_how_another_training_went_is_told_with_its_best_epoch_and_what_ended_it() -> None:
    reached = [0.01, 0.02, 0.03, 0.05, 0.04, 0.03]
    curve = [{"epoch": i, "valid": {"ndcg@10": value}} for i, value in enumerate(reached, 1)]
    told = course(curve, limit=7)
    assert "best after epoch 4, with a validation NDCG@10 of 0.0500; stopped by itself after 6." in told
    assert "After others: 0.0400 (5)." in told
    assert "ended by its limit of 6 epochs" in course(curve, limit=6)
    assert "After others: none." in course(curve[:4], limit=7)
