"""Logs of a few lines, for tests that know the right answer."""

from __future__ import annotations

from typing import get_args

from offline_train.log import Log
from streams.events import Comment, CommentAction, CommentInteraction, Video, VideoView

DAY = 24 * 3600 * 1000


class Story:
    """Collects events in the order they are told; times are in days unless `ms` is given."""

    def __init__(self) -> None:
        self.catalog: list[Video | Comment] = []
        self.events: list[VideoView | CommentInteraction] = []

    def video(self, name: str, title: str = "", created: float | None = None) -> Story:
        self.catalog.append(Video(name, title, created_ms=None if created is None else int(created * DAY)))
        return self

    def comment(
        self, name: str, video: str, text: str = "", created: float | None = None, by: str | None = None
    ) -> Story:
        created_ms = None if created is None else int(created * DAY)
        self.catalog.append(Comment(name, video, text, user_id=by, created_ms=created_ms))
        return self

    def view(self, user: str, video: str, day: float, watch_ms: int = 20_000) -> Story:
        self.events.append(VideoView(f"e{len(self.events):04d}", user, video, int(day * DAY), watch_ms))
        return self

    def act(self, user: str, video: str, comment: str, day: float, action: str = "like") -> Story:
        assert action in get_args(CommentAction)
        event_id = f"e{len(self.events):04d}"
        self.events.append(CommentInteraction(event_id, user, video, comment, int(day * DAY), action))  # type: ignore[arg-type]
        return self

    def log(self) -> Log:
        return Log.build(iter(self.catalog), iter(self.events))
