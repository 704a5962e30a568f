"""Which model scores whom: one for everybody, or beside it a canary for a share of the users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from model_runtime.scorer import Rendered, Request
from streams.releases import in_share


class Scores(Protocol):
    """What scores: `model_runtime.scorer.Scorer`, or a constant in the engine benchmark."""

    version: str

    def render(self, requests: Sequence[Request]) -> list[Rendered]:
        """One result per request; one call at a time, a large one in a thread."""


@dataclass(frozen=True)
class Serving:
    """A snapshot: a batch is scored with the one it began with, whatever is swapped meanwhile."""

    stable: Scores
    canary: Scores | None = None
    percent: float = 0.0

    def models(self) -> list[Scores]:
        """Those that serve somebody."""
        return [self.stable] if self.canary is None else [self.stable, self.canary]

    def model_of(self, user: bytes) -> Scores:
        """The model of a user (the id in UTF-8)."""
        if self.canary is not None and in_share(user, self.percent):
            return self.canary
        return self.stable

    def groups(self, users: Sequence[bytes]) -> list[tuple[Scores, list[int]]]:
        """Places in `users` by model, each with at least one."""
        if self.canary is None:
            return [(self.stable, list(range(len(users))))] if users else []
        mine = {id(self.stable): (self.stable, list[int]()), id(self.canary): (self.canary, list[int]())}
        for place, user in enumerate(users):
            mine[id(self.model_of(user))][1].append(place)
        return [(model, places) for model, places in mine.values() if places]

    def changes_for(self, user: bytes, after: Serving) -> bool:
        """Whether a user gets another version from `after`."""
        return self.model_of(user).version != after.model_of(user).version
