"""The directions that tell users' comments apart are Fisher's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_train.discriminant import discriminant


def comments(seed=0, users=40, each=6, dim=8):
    """Vectors in which the last of all directions alone says whose a comment is, and the first is loud and common."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    vectors = random.normal(size=(len(user), dim)) * np.linspace(3, 0.3, dim)
    vectors[:, -1] = random.normal(size=users)[user] + 0.1 * vectors[:, -1]
    vectors[:, 0] += 5  # what all have in common
    return vectors.astype(np.float32), user


def test_what_tells_users_apart_comes_first_however_quiet_it_is():
    found = discriminant(*comments(), dim=3, shrinkage=0.01)
    strongest = np.abs(found[0]) / np.linalg.norm(found[0])
    assert strongest.argmax() == 7
    assert strongest[7] > 0.99


def test_a_users_own_comments_are_nearer_after_it():
    vectors, user = comments()

    def told_apart(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        cosine, same = x @ x.T, user[:, None] == user[None, :]
        return cosine[same].mean() - cosine[~same].mean()

    found = discriminant(vectors, user, 3, 0.1)
    assert told_apart(vectors @ found.T) > 2 * told_apart(vectors)


def test_what_all_have_in_common_is_left_out():
    vectors, user = comments()
    centre = vectors.mean(0)
    found = discriminant(vectors, user, 8, 0.1)
    assert np.linalg.norm(found @ centre) < 0.2 * np.linalg.norm(found) * np.linalg.norm(centre)


def test_it_is_fishers_where_nothing_is_shrunk():
    """Two users on a line: the direction is the inverse of the scatter within, times the difference of the means."""
    random = np.random.default_rng(1)
    noise = random.normal(size=(4000, 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]])
    user = np.repeat([0, 1], 2000)
    vectors = noise + np.where(user[:, None] == 0, [0.4, 0.1], [-0.4, -0.1])
    vectors -= vectors.mean(0)
    found = discriminant(vectors.astype(np.float32), user, 1, 0.0)[0]
    within = np.cov(np.concatenate((noise[:2000] - noise[:2000].mean(0), noise[2000:] - noise[2000:].mean(0))).T)
    expected = np.linalg.solve(within, vectors[:2000].mean(0) - vectors[2000:].mean(0))
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert abs(cosine) == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 6), st.integers(1, 4), st.integers(1, 12))
def test_any_number_of_users_and_comments(users, each, dim):
    random = np.random.default_rng(users)
    vectors = random.normal(size=(users * each, 5)).astype(np.float32)
    found = discriminant(vectors, np.repeat(np.arange(users), each), dim, 1.0)
    assert found.shape == (dim, 5)
    assert np.isfinite(found).all()
    assert found.any() == (users > 1 and each > 1)
    assert not found[5:].any()


def test_nobody_with_two_comments_tells_nothing():
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert not discriminant(vectors, np.arange(9), 2, 1.0).any()
    assert not discriminant(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 2, 1.0).any()
    assert not discriminant(np.ones((8, 4), np.float32), np.repeat(np.arange(4), 2), 2, 1.0).any()
