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
    histories: NDArray[np.int32]  # [3, B, n] videos, comments' videos, comments
    current: NDArray[np.intp]  # [B]

    @property
    def videos(self) -> NDArray[np.int32]:
        """[B, n]"""
        return self.histories[0]

    @property
    def comment_videos(self) -> NDArray[np.int32]:
        """[B, n]"""
        return self.histories[1]

    @property
    def comments(self) -> NDArray[np.int32]:
        """[B, n]"""
        return self.histories[2]

    def part(self, users: slice) -> Encoded:
        """Some of the users."""
        return Encoded(
            self.video_preference[users], self.comment_preference[users], self.histories[:, users], self.current[users]
        )


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
    """A request on its way, and how many entries of its histories are encoded.

    Where a history is not its session's with more at the end, none of it is: that side begins again.
    """

    __slots__ = ("at", "begins_comment", "begins_video", "comment", "request", "session", "video")

    def __init__(self, at: int, request: Request, session: Session, *, fresh: bool = False) -> None:
        """`fresh`: both sides begin again, whatever the session stands for."""
        self.at, self.request, self.session = at, request, session
        self.begins_video = fresh or not _goes_on(request.videos, session.videos)
        self.begins_comment = fresh or not (
            _goes_on(request.comment_ids, session.comments) and _goes_on(request.comment_videos, session.comment_videos)
        )
        self.video = 0 if self.begins_video else len(session.videos)
        self.comment = 0 if self.begins_comment else len(session.comments)

    @property
    def more(self) -> int:
        """How many entries are to come."""
        return len(self.request.videos) - self.video + len(self.request.comment_ids) - self.comment

    @property
    def fresh(self) -> bool:
        return self.begins_video and self.begins_comment

    @property
    def appends(self) -> bool:
        """Whether entries only come at the ends of both histories, if any do."""
        return not (self.begins_video or self.begins_comment)


def _goes_on(history: Sequence[str], known: list[str]) -> bool:
    """Whether a history is what is known of it, with more at its end or not."""
    begin = history[: len(known)]
    return begin == known if isinstance(begin, list) else list(begin) == known


class Steps(Protocol):
    """What brings sessions up to date."""

    def can(self, job: Job) -> bool:
        """Whether it does this job; if not, the graph `fill` does."""

    def run(self, jobs: Sequence[Job], out: Encoded) -> None:
        """Bring sessions and memory up to date, and write preferences and rows."""

    def query(self, jobs: Sequence[Job], out: Encoded) -> None:
        """Write preferences and rows of jobs without new entries: the current video may differ."""
