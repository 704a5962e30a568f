"""The text MLP begins as the principal components of the LLM's vectors, each divided by the root of its deviation."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from offline_train.alignment_maps import TextMap, TextMaps  # noqa: E402

pytestmark = pytest.mark.train


def rows(count: int, dim: int, strengths: np.ndarray, seed: int) -> np.ndarray:
    """Correlated rows, [count, dim]: independent parts of given deviations, turned, and moved away from 0."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(dim, dim)))[0]
    parts = random.normal(size=(count, len(strengths))) * strengths
    return (parts @ turn[: len(strengths)] + random.normal(size=dim)).astype(np.float32)


def components(x: np.ndarray, width: int, power: float) -> np.ndarray:
    """The same by numpy's SVD, [n, width], of length 1."""
    standard = (x - x.mean(0)) / x.std(0)
    _, deviation, axes = np.linalg.svd(standard.astype(np.float64), full_matrices=False)
    parts = standard @ axes[:width].T / deviation[:width] ** power
    return parts / np.linalg.norm(parts, axis=1, keepdims=True)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """How far cosines of `found` are from those of `expected`, but for the few texts far out that meet GELU's bend."""
    return float(np.quantile(np.abs(found @ found.T - expected @ expected.T), 0.99))


def test_the_map_starts_as_components_divided_by_the_root_of_their_deviation():
    torch.manual_seed(0)
    x = rows(4000, 40, np.geomspace(3, 0.3, 40), seed=1)
    text = TextMap(40, 16)
    text.fit(torch.from_numpy(x))

    found = text.vectors(x)

    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert off(found, components(x, 16, 0.5)) < 0.03
    spread = found.std(0)
    assert (np.diff(spread) < 0.01).all()  # the strongest first: an SR that starts from scratch reads the first ones
    assert 1.2 < spread[0] / spread[-1] < 3  # neither as they are (6 here) nor equal


def test_titles_with_a_map_of_their_own_start_from_components_as_they_are():
    torch.manual_seed(0)
    x = rows(2000, 40, np.geomspace(3, 0.3, 40), seed=4)
    apart, together = TextMaps(40, 16, apart=True), TextMaps(40, 16)
    for maps in (apart, together):
        maps.fit(torch.from_numpy(x))

    assert apart.comment is not None
    plain, half = components(x, 16, 0.0), components(x, 16, 0.5)
    assert off(apart.title.vectors(x), plain) < 0.03 < off(apart.title.vectors(x), half)
    assert off(apart.comment.vectors(x), half) < 0.03 < off(apart.comment.vectors(x), plain)
    assert off(together.title.vectors(x), half) < 0.03

    for maps in (apart, together):  # as `align.equalised: 0` has it
        maps.fit(torch.from_numpy(x), 0.0)
    assert off(apart.title.vectors(x), plain) < 0.03
    assert off(apart.comment.vectors(x), plain) < 0.03
    assert off(together.title.vectors(x), plain) < 0.03


def test_a_direction_that_the_fitted_texts_hardly_have_is_not_blown_up():
    torch.manual_seed(0)
    few = rows(6, 40, np.geomspace(3, 0.3, 40), seed=2)  # 5 directions, and the map has 16
    text = TextMap(40, 16)
    text.fit(torch.from_numpy(few))

    weights = (text.up.weight @ text.down.weight).detach().numpy()  # [16, 40], of standardised rows
    strength = np.linalg.norm(weights, axis=1)

    assert strength.max() < 6 * strength[0]  # 1000 ** .25; by its own deviation, 1e-7, it would be thousands
    assert np.allclose(np.linalg.norm(text.vectors(few), axis=1), 1, atol=1e-5)
