"""Vectors from who watched what."""

import numpy as np
import pytest

from offline_train.cooccurrence import cooccurrence_factors, neighbours


def _cosines(factors):
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    unit = np.divide(factors, length, out=np.zeros_like(factors), where=length > 0)
    return unit @ unit.T


def _two_crowds(videos: int):
    """Users of even number watch even videos, the others odd ones: 5 videos a user."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(400), 5)
    video = random.integers(0, videos // 2, len(user)) * 2 + user % 2
    return user, video


@pytest.mark.parametrize("videos", [40, 600])  # by a dense decomposition, and by an iterative one
def test_videos_of_one_crowd_are_alike(videos):
    user, video = _two_crowds(videos)
    factors = cooccurrence_factors(user, video, videos, 16)
    assert factors.shape == (videos, 16)
    assert factors.dtype == np.float32
    cosines = _cosines(factors)
    same = np.equal.outer(np.arange(videos) % 2, np.arange(videos) % 2) & ~np.eye(videos, dtype=bool)
    assert cosines[same].mean() > cosines[~same & ~np.eye(videos, dtype=bool)].mean() + 0.05


def test_dense_and_iterative_decompositions_agree():
    user, video = _two_crowds(60)
    dense = cooccurrence_factors(user, video, 60, 15)  # 60 <= 4 * 15
    iterative = cooccurrence_factors(user, video, 60, 14)
    assert np.abs(_cosines(dense)).max() <= 1.0001
    # the 14 components that both have span the same space up to sign: compare the leading ones
    for axis in range(2):
        a, b = dense[:, ::-1][:, axis], iterative[:, ::-1][:, axis]
        assert abs(np.corrcoef(a, b)[0, 1]) > 0.98


def test_repeating_an_engagement_changes_nothing():
    user, video = _two_crowds(40)
    once = cooccurrence_factors(user, video, 40, 8)
    twice = cooccurrence_factors(np.tile(user, 2), np.tile(video, 2), 40, 8)
    np.testing.assert_allclose(_cosines(once), _cosines(twice), atol=1e-5)


def test_a_video_in_no_company_has_no_vector():
    factors = cooccurrence_factors(np.array([0, 0, 1]), np.array([0, 1, 2]), 5, 4)
    assert factors[2:].any(axis=1).tolist() == [False, False, False]
    assert factors[:2].any(axis=1).all()


def test_longer_with_a_larger_audience_and_never_above_one():
    user = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    video = np.array([0, 1, 0, 2, 0, 3, 0, 4])
    length = np.linalg.norm(cooccurrence_factors(user, video, 8, 4), axis=1)
    assert length[0] > length[1]
    assert (length <= 1).all()


@pytest.mark.parametrize("count", [3, 50])
def test_neighbours_are_the_strongest_of_the_whole_matrix(count):
    user, video = _two_crowds(40)
    watched = np.zeros((user.max() + 1, 42))
    watched[user, video] = 1
    audience, watches = np.maximum(watched.sum(0), 1), np.maximum(watched.sum(1), 1)
    together = np.diag(audience**-0.5) @ watched.T @ np.diag(watches**-0.5) @ watched @ np.diag(audience**-0.25)
    np.fill_diagonal(together, 0)
    found = neighbours(np.tile(user, 2), np.tile(video, 2), 42, count)  # repeated engagements count once
    assert found.rows.shape == (42, count)
    for i in range(42):
        best = np.sort(together[i][together[i] > 0])[::-1][:count]
        np.testing.assert_allclose(found.weights[i, : len(best)], best, rtol=1e-5)
        np.testing.assert_allclose(together[i, found.rows[i, : len(best)]], best, rtol=1e-5)
        assert (found.rows[i, len(best) :] == -1).all()
        assert i not in found.rows[i]


@pytest.mark.parametrize("videos", [1, 2, 3])
def test_the_smallest_logs(videos):
    factors = cooccurrence_factors(np.array([0]), np.array([0]), videos, 4)
    assert factors.shape == (videos, 4)
    assert np.isfinite(factors).all()
