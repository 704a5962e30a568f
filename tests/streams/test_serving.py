from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from model_runtime.scorer import Rendered, Request
from streams.releases import in_share
from streams.serving import Serving


class Named:
    def __init__(self, version: str) -> None:
        self.version = version

    def render(self, requests: Sequence[Request]) -> list[Rendered]:
        raise AssertionError("not asked")


USERS = st.binary(min_size=1, max_size=20)
A, B = Named("a"), Named("b")


@given(USERS, st.floats(0, 100), st.floats(0, 100))
def test_a_larger_share_holds_the_smaller_one(user: bytes, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert not in_share(user, small) or in_share(user, large)
    assert in_share(user, 100)
    assert not in_share(user, 0)


def test_a_share_is_as_large_as_it_says() -> None:
    users = [f"user-{i}".encode() for i in range(20_000)]
    for percent in (1, 10, 50):
        found = sum(in_share(user, percent) for user in users) / len(users) * 100
        assert abs(found - percent) < 1, percent


@given(st.lists(USERS, unique=True), st.floats(0, 100))
def test_groups_are_a_partition_by_the_users_models(users: list[bytes], percent: float) -> None:
    for serving in (Serving(A), Serving(A, B, percent), Serving(A, A, percent)):
        groups = serving.groups(users)
        assert sorted(place for _, places in groups for place in places) == list(range(len(users)))
        for model, places in groups:
            assert places
            assert all(serving.model_of(users[place]) is model for place in places)


@given(USERS, st.floats(0, 100))
def test_only_a_version_that_changes_is_a_change(user: bytes, percent: float) -> None:
    assert Serving(A).changes_for(user, Serving(B))
    assert not Serving(A).changes_for(user, Serving(Named("a")))
    assert Serving(A).changes_for(user, Serving(A, B, percent)) == in_share(user, percent)
