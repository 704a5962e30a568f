"""What passes between sessions and what encodes them: a user's session, a request on its way, preferences and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model_runtime.features import Request


class Encoded(NamedTuple):
    """Users' preferences, and the rows behind their histories (-1: padding, or not known)."""

    video_preference: NDArray[np.float32]  # [B, d]
    comment_preference: NDArray[np.float32]  # [B, d]
    videos: NDArray[np.int32]  # [B, V]
    comment_videos: NDArray[np.int32]  # [B, C]
    comments: NDArray[np.int32]  # [B, C]
    current: NDArray[np.intp]  # [B]

    def part(self, users: slice) -> Encoded:
        """Some of the users."""
        return Encoded(*(column[users] for column in self))  # type: ignore[arg-type]


class Session:
    """A user's place in the pools, and the histories that it stands for."""

    __slots__ = ("additions", "comment_videos", "comments", "edits", "slot", "unknown", "videos")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.videos: list[str] = []
        self.comment_videos: list[str] = []
        self.comments: list[str] = []
        self.unknown = False  # whether an entry had no row
        self.edits = self.additions = 0  # the catalog's counts when the rows were looked up

    def lost(self) -> None:
        """An entry without a row came: it is looked up again at the next request."""
        if not self.unknown:
            self.unknown, self.additions = True, -1


class Job:
    """A request on its way, and how many entries of its histories its session has already.

    A side that has none of them though its session has some is encoded from the beginning.
    """

    __slots__ = ("at", "comment", "request", "session", "video")

    def __init__(self, at: int, request: Request, session: Session) -> None:
        self.at, self.request, self.session = at, request, session
        v, c = len(session.videos), len(session.comments)
        self.video = v if list(request.videos[:v]) == session.videos else 0
        goes_on = (
            list(request.comment_ids[:c]) == session.comments
            and list(request.comment_videos[:c]) == session.comment_videos
        )
        self.comment = c if goes_on else 0

    @property
    def more(self) -> int:
        """How many entries are to come."""
        return len(self.request.videos) - self.video + len(self.request.comment_ids) - self.comment

    @property
    def appends(self) -> bool:
        """Whether entries only come at the ends of both histories."""
        return self.video == len(self.session.videos) and self.comment == len(self.session.comments)


class Steps(Protocol):
    """What brings sessions up to date."""

    def can(self, job: Job) -> bool:
        """Whether it can do this job, and for less than what encoding both histories from the beginning costs."""

    def run(self, jobs: Sequence[Job], out: Encoded) -> int:
        """Bring their sessions and memory up to date, and write comment preferences; returns how many entries came."""

    def query(self, jobs: Sequence[Job], out: Encoded) -> None:
        """Write comment preferences of jobs without new entries: the current video may differ."""
