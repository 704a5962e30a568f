"""A scorer that knows nothing: what is left is everything but scoring."""

from __future__ import annotations

from collections.abc import Sequence

from model_runtime.scorer import Ranking, Request


class ConstantScorer:
    """The same videos and comments for everybody."""

    version = "constant"

    def __init__(self, videos: int, comments: int) -> None:
        self._videos = [f"video-{i:05d}" for i in range(videos)], [round(1 - i / 1000, 5) for i in range(videos)]
        self._comments = (
            [f"comment-{i:03d}" for i in range(comments)],
            [round(1 - i / 1000, 5) for i in range(comments)],
        )

    def score(self, requests: Sequence[Request]) -> list[Ranking]:
        return [Ranking(*self._videos, request.current_video, *self._comments) for request in requests]
