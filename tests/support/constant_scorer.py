"""A scorer that knows nothing: what is left is everything but scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_runtime import choice
from model_runtime.live_ranker import Ranked
from model_runtime.names import Names
from model_runtime.scorer import Rendered, Request


class ConstantScorer:
    """The same videos and comments for everybody; each list is made anew, as a real one is."""

    version = "constant"

    def __init__(self, videos: int, comments: int) -> None:
        choice.wait()
        self._videos = Names(np.array([f"video-{i:05d}" for i in range(videos)], dtype=object))
        self._comments = Names(np.array([f"comment-{i:03d}" for i in range(comments)], dtype=object))

    def render(self, requests: Sequence[Request]) -> list[Rendered]:
        videos, comments = (
            names.items(
                [Ranked(np.arange(len(names)), (1 - np.arange(len(names)) / 1000).round(5), None)] * len(requests)
            )
            for names in (self._videos, self._comments)
        )
        return [
            Rendered(mine, request.current_video, under)
            for request, mine, under in zip(requests, videos, comments, strict=True)
        ]
