import copy

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from offline_train.sr import SR, Attention, SRConfig, SREncoder  # noqa: E402

CONFIG = SRConfig(videos=7, dim=16, text_dim=12, window=6, heads=2, feedforward=32)
pytestmark = pytest.mark.train


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = SREncoder(CONFIG).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def inputs(videos, comments, seed=1, width=6):
    """Random histories of the given lengths, padded with noise to `width`."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, CONFIG.dim, generator=generator)

    n = len(videos)
    return [
        *(noise(n, width) for _ in range(3)),
        torch.tensor(videos),
        *(noise(n, width) for _ in range(3)),
        torch.tensor(comments),
        noise(n),
    ]


def close(a, b):
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


def test_preferences_are_normalised_over_the_temperature(encoder):
    for preference in encoder(*inputs([3, 6, 1], [2, 0, 6])):
        assert torch.allclose(preference.norm(dim=-1), torch.full((3,), 1 / CONFIG.temperature), rtol=1e-4)


@pytest.mark.parametrize(("videos", "comments"), [(0, 0), (0, 4), (4, 0)])
def test_empty_histories_give_numbers_and_gradients(encoder, videos, comments):
    arguments = inputs([videos, 3], [comments, 3])
    arguments[-1].requires_grad_()
    video, comment = encoder(*arguments)
    (video.sum() + comment.sum()).backward()
    assert torch.isfinite(video).all()
    assert torch.isfinite(comment).all()
    assert torch.isfinite(arguments[-1].grad).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_an_empty_video_history_prefers_what_the_prior_does(encoder):
    video, comment = encoder(*inputs([0], [4]))
    prior = encoder.video_prior / encoder.video_prior.norm() / encoder.temperature
    torch.testing.assert_close(video[0], prior)
    assert (comment != 0).any()


def test_padding_is_not_read(encoder):
    arguments = inputs([2, 4], [3, 1])
    padded = encoder(*arguments)
    for place, length in ((0, [2, 4]), (1, [2, 4]), (2, [2, 4]), (4, [3, 1]), (5, [3, 1]), (6, [3, 1])):
        for row, end in enumerate(length):
            arguments[place][row, end:] = 99.0
    assert close(encoder(*arguments), padded)


def test_a_user_does_not_depend_on_the_batch(encoder):
    together = encoder(*inputs([2, 5, 0], [3, 0, 6]))
    arguments = inputs([2, 5, 0], [3, 0, 6])
    alone = [encoder(*(argument[i : i + 1] for argument in arguments)) for i in range(3)]
    assert close(together, [torch.cat(parts) for parts in zip(*alone, strict=True)])


def test_histories_are_causal(encoder):
    x = torch.randn(1, 6, CONFIG.dim, generator=torch.Generator().manual_seed(3))
    present = torch.ones(1, 6, dtype=torch.bool)
    before = encoder.video_history(x, present)
    x[:, 4, 0] += 3
    after = encoder.video_history(x, present)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3)


def test_order_and_every_input_matter(encoder):
    arguments = inputs([5], [5])
    video, comment = encoder(*arguments)
    for place in (0, 1, 2, 4, 5, 6, 8):
        changed = [a.clone() for a in arguments]
        changed[place] = changed[place].flip(1) if place < 8 else changed[place] + 1
        now_video, now_comment = encoder(*changed)
        assert not torch.allclose(now_comment, comment, atol=1e-5)
        assert torch.allclose(now_video, video, atol=1e-5) == (place == 8)  # the query is the comments' alone


@pytest.mark.parametrize("half_life", [1.0, 3.0])
def test_the_profile_residual_is_the_mean_of_the_users_own_comments_by_recency(half_life: float):
    torch.manual_seed(0)
    config = SRConfig(videos=7, dim=16, text_dim=12, window=6, profile=1e6, half_life=half_life)
    strong = SREncoder(config).eval()
    arguments = inputs([3, 0], [4, 0])
    age = torch.tensor([3.0, 2.0, 1.0, 0.0])
    expected = (0.5 ** (age / half_life) @ arguments[6][0, :4]) / (0.5 ** (age / half_life)).sum()
    found = strong(*arguments)[1]
    assert torch.allclose(found[0], torch.nn.functional.normalize(expected, dim=-1) / CONFIG.temperature, atol=1e-3)
    assert found.isfinite().all()


def test_no_profile_leaves_the_residual_out():
    encoder = SREncoder(SRConfig(videos=7, profile=0.0))
    assert not encoder.comment_profile.requires_grad
    assert encoder.comment_profile == 0


def test_attention_without_keys_adds_only_its_bias():
    attention = Attention(CONFIG)
    torch.nn.init.constant_(attention.out.bias, 0.5)
    y = attention(torch.randn(2, 3, 16), torch.randn(2, 4, 16), torch.zeros(2, 1, 4, dtype=torch.bool))
    assert torch.allclose(y, torch.full_like(y, 0.5))


def test_a_video_without_training_has_no_id():
    model = SR(CONFIG)
    model.known[3] = 0
    assert (model.id_vectors()[3] == 0).all()
    assert (model.id_vectors()[2] != 0).any()


def test_the_text_map_starts_as_a_projection():
    model = SR(CONFIG)
    text = torch.randn(3, 12)
    projected = model.text(text)
    assert torch.allclose(torch.nn.functional.cosine_similarity(projected[:, :12], text), torch.ones(3))


def test_comments_share_the_text_map_until_they_are_apart():
    torch.manual_seed(5)
    model, texts = SR(CONFIG), torch.randn(40, 12)
    assert torch.equal(model.comment_map(texts), model.text(texts))
    titles, weight = torch.randn(6, CONFIG.dim), torch.randn(16, 12)
    with torch.no_grad():
        before = model.encoder.mix(torch.cat((titles, model.text(texts[:6])), -1))
    model.start_apart(weight, texts)
    own = model.comment_map(texts)
    assert torch.allclose(F.normalize(own, dim=-1), F.normalize(texts @ weight.T, dim=-1), atol=1e-5)
    assert own.norm(dim=-1).mean().item() == pytest.approx(model.text(texts).norm(dim=-1).mean().item(), rel=1e-4)
    # 16 numbers hold all of the 12, so M's way back loses nothing.
    with torch.no_grad():
        assert torch.allclose(model.encoder.mix(torch.cat((titles, own[:6]), -1)), before, atol=1e-4)


def test_a_start_from_counts_turns_with_the_texts():
    torch.manual_seed(3)
    videos, prior = 12, 10.0
    model = SR(SRConfig(videos, dim=8, text_dim=8, heads=2))
    with torch.no_grad():
        model.text.weight.copy_(0.2 * torch.eye(8))
        model.ids.weight.zero_()
    titles = F.normalize(torch.randn(videos, 8) * torch.linspace(2.0, 0.1, 8), dim=-1)
    factors, popularity = torch.randn(videos, 7), torch.rand(videos)
    turned = copy.deepcopy(model)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    with torch.no_grad():
        turned.text.weight.copy_(3.0 * rotation @ turned.text.weight)  # as stage 1 may leave it: turned, and longer
    model.start_from_counts(factors, popularity, titles, prior)
    turned.start_from_counts(factors, popularity, titles, prior, rotation)
    assert torch.allclose(turned.ids.weight, 3.0 * model.ids.weight @ rotation.T, atol=1e-5)
    assert torch.allclose(turned.encoder.video_prior, 3.0 * prior * rotation[:, -1], atol=1e-4)
    vectors = F.normalize(turned.id_vectors() + turned.text(titles), dim=-1)
    order = (vectors @ F.normalize(turned.encoder.video_prior, dim=0)).argsort()
    assert torch.equal(order, popularity.argsort()), "without a history, videos come in the order of popularity"


def test_the_axes_of_texts_are_found_whichever_way_they_lie():
    torch.manual_seed(4)
    model = SR(SRConfig(5, dim=8, text_dim=8, heads=2))
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    with torch.no_grad():
        model.text.weight.copy_(rotation)
    titles = torch.randn(500, 8) * torch.linspace(2.0, 0.1, 8)
    axes = model.text_axes(titles)
    assert torch.allclose(axes.T @ axes, torch.eye(8), atol=1e-5)
    assert ((rotation * axes).sum(0).abs() > 0.9).all()
