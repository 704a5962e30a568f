"""Users' histories as the encoder's inputs: vectors looked up in the tables, padded into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.candidates import Candidates
from model_runtime.index import Index
from model_runtime.rows import Table


class Request(Struct, frozen=True, gc=False):
    """One user to score for.

    Histories are oldest first; of one longer than the encoder's window it sees the newest part. `comment_videos[i]` is
    the video of `comment_ids[i]`. `barred` holds 32-bit digests (`ids.video_digest`) of videos not to recommend.
    `user_id` is what the user's session is kept under (`model_runtime.sessions`); without it nothing is kept.
    """

    videos: Sequence[str] = ()
    comment_videos: Sequence[str] = ()
    comment_ids: Sequence[str] = ()
    current_video: str | None = None
    barred: Sequence[int] = ()
    user_id: str | None = None


class Batch(NamedTuple):
    """Inputs for the encoder (views of reused buffers, good until the next batch) and the indices behind them.

    Indices cover whole histories, also where the encoder sees only the newest part. They are -1 for padding and for
    what is not known.
    """

    inputs: dict[str, NDArray[np.float32] | NDArray[np.int64]]
    videos: NDArray[np.intp]  # [B, V]
    comment_videos: NDArray[np.intp]  # [B, C]
    comments: NDArray[np.intp]  # [B, C]
    current: NDArray[np.intp]  # [B]


class Features:
    """Builds batches of at most `max_batch` users. Not for several threads at a time: buffers are reused."""

    def __init__(self, candidates: Candidates, window: int, max_batch: int) -> None:
        self.window = window
        self.dim = candidates.vectors.base.shape[1]
        self._candidates = candidates
        size = max_batch * self.window * self.dim
        names = ("video_id", "video_title", "video_comment", "comment_id", "comment_title", "comment_text")
        self._buffers = {name: np.empty(size, dtype=np.float32) for name in names}

    def gather(self, requests: Sequence[Request]) -> Batch:
        """The batch of some requests, in their order: [B, V, d] for videos, [B, C, d] for comments.

        An entry that is not known is a zero vector; so is padding.
        """
        known = self._candidates
        videos, video_length = _pad([r.videos for r in requests], known.video_index)
        comment_videos, comment_length = _pad([r.comment_videos for r in requests], known.video_index)
        comments, also = _pad([r.comment_ids for r in requests], known.comments.index)
        if not np.array_equal(comment_length, also):
            raise ValueError("comment_videos and comment_ids of a request must have the same length")
        current = np.array([known.video_index[r.current_video or ""] for r in requests], dtype=np.intp)
        take, newest = self._take, self._newest
        shown, shown_under = newest(videos, video_length), newest(comment_videos, comment_length)
        query = known.id_vectors.take(current) + known.title_vectors.take(current)
        inputs: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
            "video_id": take("video_id", known.id_vectors, shown),
            "video_title": take("video_title", known.title_vectors, shown),
            "video_comment": take("video_comment", known.comment_vectors, shown),
            "video_length": np.minimum(video_length, self.window),
            "comment_id": take("comment_id", known.id_vectors, shown_under),
            "comment_title": take("comment_title", known.title_vectors, shown_under),
            "comment_text": take("comment_text", known.comments.vectors, newest(comments, comment_length)),
            "comment_length": np.minimum(comment_length, self.window),
            "query": query,
        }
        return Batch(inputs, videos, comment_videos, comments, current)

    def _newest(self, index: NDArray[np.intp], lengths: NDArray[np.int64]) -> NDArray[np.intp]:
        """The last `window` entries of each row [B, L], left-aligned."""
        if index.shape[1] <= self.window:
            return index
        dropped = np.maximum(lengths - self.window, 0)
        return np.take_along_axis(index, dropped[:, None] + np.arange(self.window), axis=1)

    def _take(self, name: str, table: Table, index: NDArray[np.intp]) -> NDArray[np.float32]:
        return table.take(index, self._buffers[name][: index.size * self.dim].reshape(*index.shape, self.dim))


def _pad(histories: Sequence[Sequence[str]], index: Index) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    lengths = [len(history) for history in histories]
    width = max(1, *lengths)
    flat: list[int] = []
    for history, length in zip(histories, lengths, strict=True):
        flat.extend(map(index.__getitem__, history))
        flat.extend((-1,) * (width - length))
    return np.array(flat, dtype=np.intp).reshape(len(lengths), width), np.array(lengths, dtype=np.int64)
