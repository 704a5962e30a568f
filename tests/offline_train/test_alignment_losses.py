import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from offline_train.alignment_losses import contrasts, info_nce  # noqa: E402

pytestmark = pytest.mark.train


def columns(n, kind=None, user=None, text=None, both=None, scale=None):
    at = torch.arange(n)
    return {
        "kind": torch.zeros(n, dtype=torch.int64) if kind is None else torch.tensor(kind),
        "user": at if user is None else torch.tensor(user),
        "target_text": at if text is None else torch.tensor(text),
        "both": torch.ones(n, dtype=torch.bool) if both is None else torch.tensor(both),
        "scale": torch.ones(n) if scale is None else torch.tensor(scale),
    }


def test_two_samples_by_hand():
    e = torch.eye(4)
    parts = contrasts(2 * e[:2], e[2:], 3 * e[:2], e[:2], **columns(2), temperature=0.5)
    # cosines are 1 with oneself and 0 with the other: -log(e^2 / (e^2 + 1))
    expected = math.log(1 + math.exp(-2))
    for value in (parts.rec, parts.z, parts.behaviour):
        assert float(value) == pytest.approx(expected, abs=1e-6)
    assert float(parts.align) == pytest.approx(2 * expected, abs=1e-6)
    assert float(parts.rec_chance) == pytest.approx(math.log(2))


def test_the_scale_is_of_l_rec_alone_and_each_samples_own():
    e = torch.eye(4)
    parts = contrasts(2 * e[:2], e[2:], 3 * e[:2], e[:2], **columns(2, scale=[0.5, 3.0]), temperature=0.5)
    mine, others, plain = (math.log(1 + math.exp(-2 * scale)) for scale in (0.5, 3.0, 1.0))
    assert float(parts.rec) == pytest.approx((mine + others) / 2, abs=1e-6)
    assert float(parts.z) == pytest.approx(plain, abs=1e-6)
    assert float(parts.behaviour) == pytest.approx(plain, abs=1e-6)


def test_equal_vectors_give_chance():
    same = torch.ones(5, 3)
    parts = contrasts(same, same, same, same, **columns(5))
    assert float(parts.rec) == pytest.approx(math.log(5), abs=1e-5)
    assert float(parts.z) == pytest.approx(math.log(5), abs=1e-5)
    assert float(parts.behaviour) == pytest.approx(math.log(2), abs=1e-5)


def test_repeated_targets_users_and_other_kinds_are_no_negatives():
    torch.manual_seed(0)
    u, other, z, t = torch.randn(4, 6, 8)
    cols = columns(6, kind=[0, 0, 0, 1, 1, 1], user=[0, 0, 1, 2, 3, 4], text=[7, 8, 7, 9, 9, 9])
    parts = contrasts(u, other, z, t, **cols)
    un, zn, tn = (F.normalize(x, dim=-1).double() for x in (u, z, t))

    def loss(a, b, allowed):
        rows = []
        for i, others in enumerate(allowed):
            scores = torch.stack([a[i] @ b[j] / 0.07 for j in [i, *others]])
            rows.append(-(scores[0] - scores.logsumexp(0)))
        return float(torch.stack(rows).mean())

    for_target = [[1], [0, 2], [1], [], [], []]
    for_z = [[2], [2], [0, 1], [4, 5], [3, 5], [3, 4]]
    assert float(parts.rec) == pytest.approx(loss(un, tn, for_target), rel=1e-4)
    assert float(parts.z) == pytest.approx((loss(un, zn, for_z) + loss(zn, un, for_z)) / 2, rel=1e-4)
    assert float(parts.rec_chance) == pytest.approx((2 * math.log(2) + math.log(3)) / 6)


def test_a_sample_with_one_history_has_no_behaviour_to_tell_apart():
    torch.manual_seed(0)
    u, other, z, t = torch.randn(4, 3, 8)
    all_of_them = contrasts(u[:2], other[:2], z[:2], t[:2], **columns(2)).behaviour
    some = contrasts(u, other, z, t, **columns(3, both=[True, True, False])).behaviour
    assert float(some) == pytest.approx(float(all_of_them), rel=1e-5)
    nobody = contrasts(u, other, z, t, **columns(3, both=[False] * 3)).behaviour
    assert float(nobody) == 0


def test_negatives_get_gradients():
    a, b = torch.eye(3)[:2], torch.eye(3)[1:].clone().requires_grad_()
    info_nce(a, b, torch.ones(2, 2, dtype=torch.bool)).backward()
    assert (b.grad.abs().sum(-1) > 0).all()
