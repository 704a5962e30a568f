"""How alike two models' lists are, user by user and on average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct


class Agreement(Struct, frozen=True):
    """Means over the users for whom both models have a list, of one kind of item.

    overlap: the share of the first k of one list that is among the first k of the other.
    same_first: the share of users whose first item is the same.
    same_list: the share of users whose first k are the same, in the same order.
    rank_correlation: Kendall's tau over the items that are in both whole lists, 1 for the same order, -1 for the
        reverse; None if no user has two of them.
    """

    users: int
    k: int
    overlap: float
    same_first: float
    same_list: float
    rank_correlation: float | None


def agreement(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], k: int = 10) -> Agreement | None:
    """Compare two lists per user, best first; None if no user has both."""
    both = [(one, other) for one, other in pairs if one and other]
    if not both:
        return None
    shares, firsts, lists, taus = [], [], [], []
    for one, other in both:
        top = min(k, len(one), len(other))
        shares.append(len(set(one[:k]) & set(other[:k])) / max(min(k, len(one)), min(k, len(other))))
        firsts.append(one[0] == other[0])
        lists.append(list(one[:top]) == list(other[:top]) and len(one[:k]) == len(other[:k]))
        if (tau := kendall(one, other)) is not None:
            taus.append(tau)
    mean = lambda values: round(float(np.mean(values)), 5)  # noqa: E731
    return Agreement(len(both), k, mean(shares), mean(firsts), mean(lists), mean(taus) if taus else None)


def kendall(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Kendall's tau of the order of the items that are in both lists; None if there are fewer than two."""
    place = {item: i for i, item in enumerate(other)}
    ranks = np.array([place[item] for item in one if item in place])
    n = len(ranks)
    if n < 2:
        return None
    later = np.sign(ranks[None, :] - ranks[:, None])[np.triu_indices(n, 1)]
    return float(later.mean())
