"""Samples of stage 1, as its two readers see them: a prompt for the LLM, and indices of texts for the SR.

Augmentation (paper, section 3.3): the LLM and the SR may be shown different comments for the same item, so that what
they agree on is the person and not the words; and histories lie at random positions, so that all positions learn.

A popular comment is shown only if it was there before the sample, was not written by the user, and does not say what
the target says. The user's own past records are shown as they are in serving.

Batches (`same_video`, ours): in a batch drawn at random no two comments are under one video, so that knowing what the
video is about finds the comment, and nothing of the user has to be known; what is served ranks the comments of one
video. So some samples of a batch are under the same video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_train.batches import comment_authors, ranked_comments
from offline_train.corpus import Corpus, Split
from offline_train.embedding import CorpusTexts
from offline_train.finetuning import trainable
from offline_train.log import INTERACTION, VIEW
from offline_train.prompts import NO_TEXT, TEMPLATES, Piece, prompt

POPULAR = 3
MOST_COMMENTS = 3


@dataclass(frozen=True)
class DrawConfig:
    """How samples are drawn; the defaults are the paper's."""

    history: int = 20  #: of each history, what the SR sees at most
    prompt_history: int = 20  #: ... and the LLM
    language: str = "en"
    differ_history: float = 0.5  #: probability that a history is augmented ...
    differ_item: float = 0.3  #: ... and then each of its items
    video_share: float | None = None  #: of the samples; None: as the log has it
    same_video: int = 1  #: ours: so many comment samples in a row are under the same video, where it has so many


@dataclass(frozen=True)
class Drawn:
    """One sample. Texts are indices of `CorpusTexts.distinct`, -1 for none."""

    kind: int
    user: int
    target: int
    query: int  #: title of the video that the user is on; -1 for a video sample
    videos: list[tuple[int, int]]  #: (title, comment), for the SR
    comments: list[tuple[int, list[int]]]  #: (title, comments), for the SR
    video_at: np.ndarray
    comment_at: np.ndarray
    prompt: list[Piece]


@dataclass(frozen=True)
class AlignmentBatch:
    """b samples. `columns` int64: indices into `texts`, len(texts) for none; see `AlignmentBatch.of`."""

    texts: np.ndarray  #: int64, indices of `CorpusTexts.distinct` that the batch needs
    live: np.ndarray  #: bool [texts], is a target
    columns: dict[str, np.ndarray]

    @staticmethod
    def of(drawn: list[Drawn]) -> AlignmentBatch:
        """The SR's side of some samples, padded at the end.

        `video_title`, `video_comment`, `video_at` [b, V]; `comment_title`, `comment_at` [b, C]; `comment_text`
        [b, C, 3];
        `query`, `target`, `kind`, `user`, `target_text` (in the corpus), `both` [b]; `*_present` bool.
        """
        b = len(drawn)
        v, c = (max(1, max(len(getattr(d, name)) for d in drawn)) for name in ("videos", "comments"))
        columns = {
            "video_title": np.full((b, v), -1),
            "video_comment": np.full((b, v), -1),
            "comment_title": np.full((b, c), -1),
            "comment_text": np.full((b, c, MOST_COMMENTS), -1),
            "query": np.array([d.query for d in drawn]),
            "target": np.array([d.target for d in drawn]),
        }
        rest = {
            "video_at": np.zeros((b, v), np.int64),
            "comment_at": np.zeros((b, c), np.int64),
            "video_title_present": np.zeros((b, v), bool),
            "comment_title_present": np.zeros((b, c), bool),
            "kind": np.array([d.kind for d in drawn], np.int64),
            "user": np.array([d.user for d in drawn], np.int64),
            "target_text": np.array([d.target for d in drawn], np.int64),
            "both": np.array([bool(d.videos and d.comments) for d in drawn], np.int64),
        }
        for i, d in enumerate(drawn):
            for j, (title, comment) in enumerate(d.videos):
                columns["video_title"][i, j], columns["video_comment"][i, j] = title, comment
            for j, (title, comments) in enumerate(d.comments):
                columns["comment_title"][i, j] = title
                columns["comment_text"][i, j, : len(comments)] = comments
            rest["video_at"][i, : len(d.videos)] = d.video_at
            rest["comment_at"][i, : len(d.comments)] = d.comment_at
            rest["video_title_present"][i, : len(d.videos)] = True
            rest["comment_title_present"][i, : len(d.comments)] = True
        texts = np.unique(np.concatenate([column.ravel() for column in columns.values()]))
        texts = texts[texts >= 0]
        for name, column in columns.items():
            columns[name] = np.where(column < 0, len(texts), np.searchsorted(texts, column)).astype(np.int64)
        return AlignmentBatch(texts, np.isin(texts, rest["target_text"]), columns | rest)


class Drawer:
    """Draws samples of the training part. The same (seed, epoch, row) gives the same sample, in any process."""

    def __init__(self, corpus: Corpus, split: Split, texts: CorpusTexts, config: DrawConfig, seed: int) -> None:
        self.corpus, self.texts, self.config, self.seed = corpus, texts, config, seed
        samples = trainable(corpus.samples.take(split.train), "joint")
        target = np.where(samples.kind == VIEW, texts.title[samples.target_video], -1)
        commented = samples.kind == INTERACTION
        target[commented] = texts.comment[samples.target_comment[commented]]
        known = (samples.video_end > samples.video_start) | (samples.comment_end > samples.comment_start)
        usable = (target >= 0) & known
        self.samples, self.target = samples.take(usable), target[usable]
        if not len(self.samples):
            raise ValueError("no training sample has a history and a target with text; stage 1 has nothing to learn")
        log = corpus.log
        self.popular = _top(ranked_comments(log, corpus, split), log.comment_video, len(log.video_ids))
        self.author = comment_authors(log)

    def choose(self, count: int, stream: int = 0) -> np.ndarray:
        """`count` rows in random order (all of them if `count` is 0 or more than there are)."""
        random = np.random.default_rng((self.seed, stream))
        rows = self.shuffled(np.arange(len(self.samples)), random)
        count = min(count or len(rows), len(rows))
        if self.config.video_share is None:
            return rows[:count]
        is_video = self.samples.kind[rows] == VIEW
        videos = min(round(count * self.config.video_share), int(is_video.sum()))
        chosen = np.concatenate((rows[is_video][:videos], rows[~is_video][: count - videos]))
        return self.shuffled(chosen, random)

    def shuffled(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`rows` in random order, but for comment samples under the same video: `same_video` of them stay together."""
        rows = random.permutation(rows)
        most = self.config.same_video
        if most <= 1:
            return rows
        together = np.arange(len(rows))  # numbers of groups
        comment = np.flatnonzero(self.samples.kind[rows] == INTERACTION)
        at = comment[np.argsort(self.samples.target_video[rows[comment]], kind="stable")]
        video = self.samples.target_video[rows[at]]
        rank = np.arange(len(at)) - np.searchsorted(video, video)
        together[at] = at[np.arange(len(at)) - rank % most]
        return rows[np.argsort(random.permutation(len(rows))[together], kind="stable")]

    def may_show(self, row: int) -> np.ndarray:
        """int64: every text that any drawing of a row's sample can need, its target included."""
        samples, text, most = self.samples, self.texts, self.config.history
        start, end = int(samples.video_start[row]), int(samples.video_end[row])
        videos = self.corpus.videos[max(start, end - most) : end]
        start, end = int(samples.comment_start[row]), int(samples.comment_end[row])
        records = slice(max(start, end - most), end)
        videos = np.concatenate((videos, self.corpus.comment_videos[records], samples.target_video[row : row + 1]))
        popular = self.popular[videos].ravel()
        comments = np.concatenate((self.corpus.comments[records], popular[popular >= 0]))
        found = np.concatenate((text.title[videos], text.comment[comments], [self.target[row]]))
        return np.unique(found[found >= 0])

    def draw(self, row: int, epoch: int = 0) -> Drawn:
        """The sample of a row, augmented anew in each epoch."""
        random = np.random.default_rng((self.seed, epoch, row))
        corpus, samples, config, text = self.corpus, self.samples, self.config, self.texts
        user, ts_ms, target = int(samples.user[row]), int(samples.ts_ms[row]), int(self.target[row])

        def popular(video: int) -> list[int]:
            shown = [c for c in self.popular[video].tolist() if c >= 0]
            shown = [c for c in shown if corpus.log.first_seen_comment[c] < ts_ms and self.author[c] != user]
            return list(dict.fromkeys(t for t in text.comment[shown].tolist() if t not in (NO_TEXT, target)))

        sr_videos: list[tuple[int, int]] = []
        llm_videos: list[tuple[int, int]] = []
        augmented = random.random() < config.differ_history
        for video in corpus.videos[samples.video_start[row] : samples.video_end[row]][-config.history :].tolist():
            shown = popular(video)
            both = [shown[i] for i in random.permutation(len(shown))[:2]] or [NO_TEXT]
            differ = augmented and random.random() < config.differ_item
            sr_videos.append((int(text.title[video]), both[0]))
            llm_videos.append((int(text.title[video]), both[-1] if differ else both[0]))

        sr_comments: list[tuple[int, list[int]]] = []
        llm_comments: list[tuple[int, list[int]]] = []
        augmented = random.random() < config.differ_history
        start, end = int(samples.comment_start[row]), int(samples.comment_end[row])
        for at in range(max(start, end - config.history), end):
            video, own = int(corpus.comment_videos[at]), int(text.comment[corpus.comments[at]])
            sides = ([own], [own]) if own >= 0 else ([], [])
            if augmented and random.random() < config.differ_item:
                mixed = list(dict.fromkeys([*sides[0], *popular(video)]))
                mixed = [mixed[i] for i in random.permutation(len(mixed))]
                if len(mixed) >= 2:
                    sides = mixed[0::2][:MOST_COMMENTS], mixed[1::2][:MOST_COMMENTS]
            sr_comments.append((int(text.title[video]), sides[0]))
            llm_comments.append((int(text.title[video]), sides[1]))

        current = int(text.title[samples.target_video[row]]) if samples.kind[row] == INTERACTION else NO_TEXT
        keep = config.prompt_history
        pieces = prompt(
            llm_videos[len(llm_videos) - min(keep, len(llm_videos)) :],
            llm_comments[len(llm_comments) - min(keep, len(llm_comments)) :],
            None if samples.kind[row] == VIEW else current,
            template=int(random.integers(TEMPLATES)),
            language=config.language,
        )
        window = corpus.config.window

        def positions(count: int) -> np.ndarray:
            return np.sort(random.permutation(window)[:count])

        video_at, comment_at = positions(len(sr_videos)), positions(len(sr_comments))
        return Drawn(
            int(samples.kind[row]), user, target, current, sr_videos, sr_comments, video_at, comment_at, pieces
        )


def _top(ranked: np.ndarray, comment_video: np.ndarray, videos: int) -> np.ndarray:
    """int64 [n_v, POPULAR]: the first comments of each video in a ranking of all, -1 where there are fewer."""
    order = ranked[np.argsort(comment_video[ranked], kind="stable")]
    owner = comment_video[order]
    rank = np.arange(len(order)) - np.searchsorted(owner, owner)
    top = np.full((videos, POPULAR), -1, np.int64)
    kept = rank < POPULAR
    top[owner[kept], rank[kept]] = order[kept]
    return top
