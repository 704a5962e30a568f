"""Stage 2 from the serving model: its weights, its id embeddings by video, and text vectors in its own axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from offline_train.log import Log
from offline_train.reference import Reference
from offline_train.sr import SR, SRConfig
from offline_train.text import TextVectors

#: tables with a row per video
_IDS, _KNOWN = "ids.weight", "known"
#: fewer texts in common than this say too little about how two spaces lie to each other
_FEWEST_TEXTS = 50


class ColdError(ValueError):
    """The serving model can't be started from; the message says why. Training starts from scratch then."""


def config_for(serving: Reference, log: Log, texts: TextVectors, window: int) -> SRConfig:
    """The serving model's shape for the log's videos.

    Raises:
        ColdError: it does not fit the text vectors or the histories.
    """
    config = serving.model.config
    if config.text_dim != texts.video.shape[1]:
        raise ColdError(f"its text vectors have {config.text_dim} numbers, these have {texts.video.shape[1]}")
    if config.window != window:
        raise ColdError(f"its histories have {config.window} places, these have {window}")
    return replace(config, videos=len(log.video_ids))


def aligned(texts: TextVectors, log: Log, serving: Reference) -> TextVectors:
    """The text vectors, turned so that texts known to the serving model lie where they lay for it.

    Vectors that are fitted to each log (`svd`) have axes of their own each time, and weights trained on others would
    be lost on them. The turn is the best orthogonal one over the texts in common (Procrustes; Schönemann, 1966): it
    changes no angle between texts. For vectors that were the same before it is the identity. Where titles and comments
    have text MLPs of their own, each space is turned by itself; and where the serving model was better without that
    (`TextVectors.alternatives`), its texts are by one.

    Raises:
        ColdError: too few texts in common.
    """
    own = serving.tables.crossed is not None
    if own and texts.crossed is None:
        raise ColdError("its titles have a text MLP of their own, these have none")
    if texts.crossed is not None and not own:
        texts = texts.by_one_map()
    titles = _common(texts.video, log.video_index, serving.video_ids, serving.tables.titles)
    comments = _common(texts.comment, log.comment_index, serving.comment_ids, serving.tables.comments)
    if not own:
        turn = _turn(*(np.concatenate(both) for both in zip(titles, comments, strict=True)))
        return TextVectors(texts.video @ turn, texts.comment @ turn, texts.method)
    assert texts.crossed is not None
    title_turn, comment_turn = _turn(*titles), _turn(*comments)
    crossed = texts.crossed[0] @ comment_turn, texts.crossed[1] @ title_turn
    return TextVectors(texts.video @ title_turn, texts.comment @ comment_turn, texts.method, crossed=crossed)


def _common(
    vectors: np.ndarray, index: Mapping[str, int], names: Sequence[str], before: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of what the serving model knew, here and there, [n, d_t] each."""
    at = np.array([index.get(name, -1) for name in names], np.int64)
    return vectors[at[at >= 0]], before.cpu().numpy()[: len(names)][at >= 0]


def _turn(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """float32 [d_t, d_t]: the orthogonal map that brings rows nearest to others."""
    if len(here) and np.allclose(here, there, atol=1e-5):
        return np.eye(here.shape[1], dtype=np.float32)  # read by the same model: no matter how few they are
    here, there = here.astype(np.float64), there.astype(np.float64)
    known = (np.abs(here).sum(1) > 0) & (np.abs(there).sum(1) > 0)
    if known.sum() < _FEWEST_TEXTS:
        raise ColdError(f"only {int(known.sum())} texts in common, too few to tell how the axes lie")
    u, _, v = np.linalg.svd(here[known].T @ there[known])
    turn: np.ndarray = (u @ v).astype(np.float32)
    return turn


def weights_of(serving: Reference, video_ids: Sequence[str]) -> Callable[[SR], str]:
    """What `finetune` calls to start a model: the serving model's weights, ids by video; what is new stays as it is."""

    def start(model: SR) -> str:
        old, new = serving.model.state_dict(), model.state_dict()
        place = {name: i for i, name in enumerate(serving.video_ids)}
        at = torch.tensor([place.get(name, -1) for name in video_ids])
        learned = (at >= 0) & (old[_KNOWN][at.clamp(min=0), 0] > 0)
        for name, value in new.items():
            if name == _IDS:
                value[learned] = old[_IDS][at[learned]].to(value)
            elif name != _KNOWN and name in old and old[name].shape == value.shape:
                value.copy_(old[name])
        model.load_state_dict(new)
        return "serving"

    return start
