"""Reference scores: what the PyTorch model itself gives for a user's state, to hold serving against.

It shares no code with `model_runtime`'s scorer: it starts from the checkpoint (text vectors, id table, weights) and not
from the bundle's arrays and graph.

    reference = Reference.load("registry/checkpoints/20250131T093000Z-1a2b3c4d.pt")
    ranking = reference.score_users({"u1": state})["u1"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model_runtime.ids import video_digest
from offline_train.batches import Batch, ItemTables, preferences
from offline_train.corpus import Corpus
from offline_train.finetuning import Finetuned
from offline_train.log import NEVER
from offline_train.sr import SR, SRConfig
from streams.history import UserState

CHECKPOINT_VERSION = 2
_BATCH = 64


class CheckpointError(ValueError):
    """A file that is no checkpoint of this version."""


@dataclass(frozen=True)
class ReferenceRequest:
    """A user to rank for: two histories, oldest first, the video they are on, digests of barred videos."""

    videos: list[str] = field(default_factory=list)
    comment_videos: list[str] = field(default_factory=list)
    comment_ids: list[str] = field(default_factory=list)
    current_video: str | None = None
    barred: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ReferenceRanking:
    """(id, score), best first. Comments are those of the video that the user is on."""

    videos: list[tuple[str, float]]
    comments: list[tuple[str, float]]


class Reference:
    """A trained model with its catalog, scored by PyTorch in float32, one precision and one code path for all."""

    def __init__(
        self, model: SR, tables: ItemTables, video_ids: list[str], comment_ids: list[str], comment_video: Tensor
    ) -> None:
        self.model, self.tables = model.eval(), tables
        self.video_ids, self.comment_ids = video_ids, comment_ids
        self.comment_video = comment_video
        self._video_at = {name: i for i, name in enumerate(video_ids)}
        self._comment_at = {name: i for i, name in enumerate(comment_ids)}
        self._digests = torch.tensor([video_digest(name) for name in video_ids])

    @staticmethod
    def of(finetuned: Finetuned, corpus: Corpus) -> Reference:
        """The reference of a model just trained."""
        log = corpus.log
        return Reference(
            finetuned.model, finetuned.tables, log.video_ids, log.comment_ids, torch.from_numpy(log.comment_video)
        )

    def save(self, path: str | Path) -> Path:
        """Write the checkpoint: weights, text vectors, ids. `torch.load(..., weights_only=True)` can read it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "checkpoint_version": CHECKPOINT_VERSION,
                "config": asdict(self.model.config),
                "weights": self.model.state_dict(),
                "titles": self.tables.titles,
                "first_seen": self.tables.first_seen,
                "comments": self.tables.comments,
                "popular": self.tables.popular,
                "crossed": self.tables.crossed,
                "video_ids": self.video_ids,
                "comment_ids": self.comment_ids,
                "comment_video": self.comment_video,
            },
            path,
        )
        return path

    @staticmethod
    def load(path: str | Path) -> Reference:
        """Read a checkpoint. Nothing in the file is executed.

        Raises:
            CheckpointError: no such file, or no checkpoint of this version.
        """
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if saved["checkpoint_version"] != CHECKPOINT_VERSION:
                raise CheckpointError(f"{path} has checkpoint version {saved['checkpoint_version']}; train again")
            model = SR(SRConfig(**saved["config"]))
            model.load_state_dict(saved["weights"])
        except CheckpointError:
            raise
        except Exception as error:  # torch.load raises what it meets: pickle, zip, key, runtime errors
            raise CheckpointError(f"{path} is no checkpoint: {error}") from None
        tables = ItemTables(
            saved["titles"], saved["first_seen"], saved["comments"], saved["popular"], saved.get("crossed")
        )
        return Reference(model, tables, saved["video_ids"], saved["comment_ids"], saved["comment_video"])

    def score_users(
        self, states: Mapping[str, UserState], *, top_videos: int = 100, top_comments: int = 50
    ) -> dict[str, ReferenceRanking]:
        """What each user should be recommended, given their state and no live signals."""
        requests = [
            ReferenceRequest(
                videos=state.video.videos,
                comment_videos=state.comment.videos,
                comment_ids=state.comment.comments,
                current_video=state.newest.video_id if state.newest else None,
                barred=[*state.seen.videos, *state.hated.videos],
            )
            for state in states.values()
        ]
        rankings = self.rank(requests, top_videos=top_videos, top_comments=top_comments)
        return dict(zip(states, rankings, strict=True))

    @torch.inference_mode()
    def rank(
        self, requests: Sequence[ReferenceRequest], *, top_videos: int = 100, top_comments: int = 50
    ) -> list[ReferenceRanking]:
        """Rankings in the order of the requests.

        Left out are the videos of the user's histories, the current one and the barred ones, and the comments of the
        user's history.
        """
        model = self.model
        videos = F.normalize(model.id_vectors() + model.text(self.tables.titles), dim=-1)  # [n_v, d]
        comments = F.normalize(model.comment_map(self.tables.comments[:-1]), dim=-1)  # [n_c, d]
        rankings = []
        for first in range(0, len(requests), _BATCH):
            part = requests[first : first + _BATCH]
            video_preference, comment_preference = preferences(model, self.tables, self._batch(part))
            scores = video_preference @ videos.T  # [B, n_v]
            for row, request in enumerate(part):
                mine = scores[row]
                out = [*request.videos, *request.comment_videos, request.current_video]
                mine[[self._video_at[name] for name in out if name in self._video_at]] = -torch.inf
                mine[torch.isin(self._digests, torch.tensor(request.barred, dtype=torch.int64))] = -torch.inf
                best = _best(mine, top_videos)
                under = self._comments_of(request)
                ranked = _best(comments[under] @ comment_preference[row], top_comments)
                rankings.append(
                    ReferenceRanking(
                        [(self.video_ids[i], score) for i, score in best],
                        [(self.comment_ids[under[i]], score) for i, score in ranked],
                    )
                )
        return rankings

    def _comments_of(self, request: ReferenceRequest) -> Tensor:
        """Places of the comments under the current video that are not in the user's history."""
        at = self._video_at.get(request.current_video or "", -1)
        under = (self.comment_video == at).nonzero().squeeze(-1)
        known = torch.tensor([self._comment_at.get(name, -1) for name in request.comment_ids], dtype=torch.int64)
        return under[~torch.isin(under, known)]

    def _batch(self, requests: Sequence[ReferenceRequest]) -> Batch:
        window = self.model.config.window
        no_video, no_comment = len(self.video_ids), len(self.comment_ids)

        def pad(histories: list[list[str]], at: dict[str, int], nothing: int) -> Tensor:
            width = max(1, *(len(history) for history in histories))
            rows = [[at.get(n, nothing) for n in h] + [nothing] * (width - len(h)) for h in histories]
            return torch.tensor(rows, dtype=torch.int64)

        videos = [request.videos[-window:] for request in requests]
        records = [request.comment_ids[-window:] for request in requests]
        video = pad(videos, self._video_at, no_video)
        popular = F.pad(self.tables.popular, (0, 1), value=no_comment)
        return Batch(
            video=video,
            video_comment=popular[video],
            video_length=torch.tensor([len(history) for history in videos]),
            comment=pad(records, self._comment_at, no_comment),
            comment_video=pad([request.comment_videos[-window:] for request in requests], self._video_at, no_video),
            comment_length=torch.tensor([len(history) for history in records]),
            current=torch.tensor([self._video_at.get(request.current_video or "", no_video) for request in requests]),
            known_ms=torch.full((len(requests),), NEVER),
        )


def _best(scores: Tensor, count: int) -> list[tuple[int, float]]:
    """Places and scores of the best that are not minus infinity; of equal ones the first."""
    order = scores.argsort(descending=True, stable=True)[:count].tolist()
    return [(i, round(float(scores[i]), 5)) for i in order if scores[i] > -torch.inf]
