"""From samples to the index tensors of a batch, and from those to the encoder's inputs.

Training, validation, evaluation and the reference scores all go through `preferences`, so that they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from offline_train.corpus import Corpus, Samples, Split
from offline_train.log import INTERACTION, NEVER, Log
from offline_train.sr import SR
from offline_train.text import TextVectors


@dataclass(frozen=True)
class ItemTables:
    """What is known of videos and comments, row by row. Index n_c stands for "no comment": a zero text vector."""

    titles: Tensor  #: float32 [n_v, d_t], t(title)
    first_seen: Tensor  #: int64 [n_v], Unix ms
    comments: Tensor  #: float32 [n_c + 1, d_t], t(comment), then a zero row
    popular: Tensor  #: int64 [n_v], each video's popular comment, n_c where it has none
    #: where the two have text MLPs of their own, titles by that of comments [n_v, d_t], comments by that of titles
    crossed: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def build(texts: TextVectors, popular: np.ndarray, first_seen: np.ndarray) -> ItemTables:
        """Tables of text vectors, of the result of `popular_comments`, and of `Log.first_seen_video`."""
        none = len(texts.comment)
        comments = np.concatenate((texts.comment, np.zeros((1, texts.comment.shape[1]), np.float32)))
        return ItemTables(
            torch.from_numpy(texts.video),
            torch.from_numpy(first_seen),
            torch.from_numpy(comments),
            torch.from_numpy(np.where(popular < 0, none, popular).astype(np.int64)),
            None if texts.crossed is None else (torch.from_numpy(texts.crossed[0]), torch.from_numpy(texts.crossed[1])),
        )

    def to(self, device: str) -> ItemTables:
        """The tables on a device, but for `crossed`, which training does not read."""
        columns = ("titles", "first_seen", "comments", "popular")
        return replace(self, **{name: getattr(self, name).to(device) for name in columns})


@dataclass(frozen=True)
class Batch:
    """Indices of B histories, padded at the end. n_v stands for no video or an unknown one, n_c for no comment."""

    video: Tensor  #: int64 [B, V]
    video_comment: Tensor  #: int64 [B, V], the popular comment shown with each video
    video_length: Tensor  #: int64 [B]
    comment: Tensor  #: int64 [B, C]
    comment_video: Tensor  #: int64 [B, C]
    comment_length: Tensor  #: int64 [B]
    current: Tensor  #: int64 [B], the video that the comment preference is for
    known_ms: Tensor  #: int64 [B], videos first seen at or after this have a zero id


class Gatherer:
    """Reads the windows of samples out of a corpus."""

    def __init__(self, corpus: Corpus, tables: ItemTables) -> None:
        self.corpus = corpus
        self.no_video, self.no_comment = len(corpus.log.video_ids), len(corpus.log.comment_ids)
        self.popular = np.append(tables.popular.cpu().numpy(), self.no_comment)
        # One more row each, for "no comment": written by nobody, there since ever.
        self.author = np.append(comment_authors(corpus.log), -1)
        self.first_seen = np.append(corpus.log.first_seen_comment, -1)

    def batch(self, samples: Samples, *, training: bool, known_ms: np.ndarray | None = None) -> Batch:
        """The batch of some samples. `known_ms` as in `Batch`; None: every video has its id.

        In training, a popular comment is left out where it was not there yet at the sample's time (the target itself
        may have made it popular) or where the user wrote it: both would show the answer. Later samples, of validation
        and test, need no such care, since popular comments are chosen before them; there the input is as in serving.
        """
        video_at, video_length = _positions(samples.video_start, samples.video_end)
        comment_at, comment_length = _positions(samples.comment_start, samples.comment_end)
        video = _take(self.corpus.videos, video_at, self.no_video)
        shown = self.popular[video]
        if training:
            late = self.first_seen[shown] >= samples.ts_ms[:, None]
            own = self.author[shown] == samples.user[:, None]
            shown = np.where(late | own, self.no_comment, shown)
        return Batch(
            *map(
                torch.from_numpy,
                (
                    video,
                    shown,
                    video_length,
                    _take(self.corpus.comments, comment_at, self.no_comment),
                    _take(self.corpus.comment_videos, comment_at, self.no_video),
                    comment_length,
                    samples.target_video.astype(np.int64),
                    np.full(len(samples), NEVER) if known_ms is None else known_ms,
                ),
            )
        )


def preferences(model: SR, tables: ItemTables, batch: Batch) -> tuple[Tensor, Tensor]:
    """Both preferences of a batch, [B, d] each, L2-normalised and divided by the temperature."""
    # one more row of zeros: no video
    ids, titles = (F.pad(rows, (0, 0, 0, 1)) for rows in (model.id_vectors(), model.text(tables.titles)))
    first_seen, known_ms = F.pad(tables.first_seen, (0, 1)), batch.known_ms.to(ids.device)

    def id_of(index: Tensor) -> Tensor:
        known = first_seen[index] < known_ms.view(-1, *[1] * (index.dim() - 1))
        return ids[torch.where(known, index, len(ids) - 1)]

    video, comment_video = batch.video.to(ids.device), batch.comment_video.to(ids.device)
    current = batch.current.to(ids.device)
    return model.encoder(
        id_of(video),
        titles[video],
        comment_vectors(model, tables, batch.video_comment),
        batch.video_length.to(ids.device),
        id_of(comment_video),
        titles[comment_video],
        comment_vectors(model, tables, batch.comment),
        batch.comment_length.to(ids.device),
        id_of(current) + titles[current],
    )


def comment_vectors(model: SR, tables: ItemTables, index: Tensor) -> Tensor:
    """A t(comment) for an index tensor of any shape, [..., d]; maps each comment once, however often it occurs."""
    distinct, inverse = index.to(tables.comments.device).unique(return_inverse=True)
    return model.comment_map(tables.comments[distinct])[inverse]


def popular_comments(log: Log, corpus: Corpus, split: Split) -> np.ndarray:
    """int64 [n_v]: the comment of each video with the most engagements in the training period, -1 for none.

    See `ranked_comments`.
    """
    order = ranked_comments(log, corpus, split)
    popular = np.full(len(log.video_ids), -1, np.int64)
    popular[log.comment_video[order][::-1]] = order[::-1]  # the best is written last
    return popular


def ranked_comments(log: Log, corpus: Corpus, split: Split) -> np.ndarray:
    """int64: comments by their engagements in the training period, most first.

    Ties go to the one that was there first. What was first seen after the period, or is known from held-out events
    only, is left out.
    """
    counted = log.engaged & (log.kind == INTERACTION) & (log.ts_ms < split.valid_ms)
    if split.valid_ms == NEVER:
        held = np.concatenate((split.valid, split.test))
        counted[corpus.samples.event_index[held]] = False
    count = np.bincount(log.comment[counted], minlength=len(log.comment_ids))
    candidate = log.first_seen_comment < split.valid_ms
    if split.valid_ms == NEVER:
        targets = corpus.samples.target_comment[held]
        candidate[targets[targets >= 0]] &= count[targets[targets >= 0]] > 0
    comments = np.flatnonzero(candidate)
    ranked: np.ndarray = comments[np.lexsort((comments, log.first_seen_comment[comments], -count[comments]))]
    return ranked


def comment_authors(log: Log) -> np.ndarray:
    """int32 [n_c]: who wrote each comment, by the catalog or else by the event of writing; -1 unknown."""
    author = log.comment_author.copy()
    wrote = log.wrote()
    unknown = author[log.comment[wrote]] < 0
    author[log.comment[wrote][unknown]] = log.user[wrote][unknown]
    return author


def _positions(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [B, L] of ranges, padded with -1 (L at least 1), and their lengths."""
    length = end - start
    step = np.arange(max(1, int(length.max(initial=0))))
    return np.where(step < length[:, None], start[:, None] + step, -1), length.astype(np.int64)


def _take(values: np.ndarray, at: np.ndarray, padding: int) -> np.ndarray:
    """int64 `values[at]`, `padding` where `at` is negative."""
    if not len(values):
        return np.full(at.shape, padding, np.int64)
    return np.where(at >= 0, values[at], padding).astype(np.int64)
