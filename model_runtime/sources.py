"""Where candidates come from when live signals rank: the nearest by the SR, what is trending, what is newest, and what
goes together with the videos that a user watched last.

The trainer asks the same sources (`offline_train.live_asof`), so that `f` is trained on what it will rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: how many candidates each source of videos gives
SOURCE_SIZE = 200
SOURCES = ("nearest", "trending", "newest", "related")


def top(values: NDArray[Any], count: int = SOURCE_SIZE) -> NDArray[np.intp]:
    """Places of the `count` largest of [n], ascending; of equal ones the later. All if there are no more."""
    n = len(values)
    if n <= count:
        return np.arange(n)
    bound = np.partition(values, n - count)[n - count]
    above = np.flatnonzero(values > bound)
    equal = np.flatnonzero(values == bound)
    return np.sort(np.concatenate((above, equal[len(equal) - (count - len(above)) :])))


def best_first(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """As `top`, the largest first, of equal ones the later."""
    at = top(values, count)[::-1]
    return at[np.argsort(-values[at], kind="stable")]
