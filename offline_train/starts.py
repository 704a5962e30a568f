"""Where stage 2 starts from: what counting finds at once.

Training would find it by itself, but on small data only after more steps than there are. Each start is tried on the
validation samples, and the plainest stays unless another ranks them better.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from offline_train.cooccurrence import cooccurrence_factors
from offline_train.corpus import Samples
from offline_train.discriminant import discriminant
from offline_train.log import INTERACTION, VIEW
from offline_train.sr import SR
from offline_train.validation import Validator

TEXT_START = "text"
#: shrinkages of the discriminants that are tried for a map of comments' own ...
SHRINKAGES = (0.1, 1.0)
#: ... from at most so many comments of users drawn at random (400 MB in double precision) ...
_MOST_COMMENTS = 200_000
#: ... and which has to be better for comments by this factor, as they no longer gain from what A learns of titles
_PAYS_APART = 1.1
#: lengths of the prior that are tried for the start from counts
PRIORS = (3.0, 10.0, 30.0)
#: half-lives of the profiles, in positions, that are tried for either start
HALF_LIVES = (8.0, 2.0, 1.0)
#: a start other than the plainest has to be better by this factor: the best of a dozen is good by luck, too
_PAYS = 1.01


def choose_start(model: SR, validator: Validator, samples: Samples, seed: int, aligned: bool) -> str:
    """Put the best start into the model, and say which it is.

    Args:
        samples: of the training part.
        aligned: the model has weights of stage 1.
    """
    own = _apart(model, validator, samples, seed)
    found, score = _counts(model, validator, samples, validator(model).joint, seed, aligned)
    return (found or TEXT_START) + own + _half_lives(model, validator, score)


def _apart(model: SR, validator: Validator, samples: Samples, seed: int) -> str:
    """Comments get a map of their own: to what tells one user's from another's."""
    score, comments = validator(model).comment, samples.take(samples.kind == INTERACTION)
    said = ", comments apart as stage 1 left them" if model.apart else ""
    if score is None or not len(comments):
        return said
    if len(comments) > _MOST_COMMENTS:  # whole users: one comment of each would tell nothing
        place = np.random.default_rng(seed).permutation(int(comments.user.max()) + 1)
        comments = comments.take(np.argsort(place[comments.user], kind="stable")[:_MOST_COMMENTS])
    texts = validator.tables.comments[torch.from_numpy(comments.target_comment.astype(np.int64))]
    plain = copy(model)
    best, score = plain, score * _PAYS_APART
    for shrinkage in SHRINKAGES:
        found = discriminant(texts.cpu().numpy(), comments.user, model.config.dim, shrinkage)
        if not found.any():
            continue
        model.load_state_dict(plain)
        model.start_apart(torch.from_numpy(found).to(texts), texts)
        if (tried := validator(model).comment or 0.0) > score:
            said, best, score = f", comments apart by a discriminant shrunk by {shrinkage:g}", copy(model), tried
    model.load_state_dict(best)
    return said


def _counts(
    model: SR, validator: Validator, samples: Samples, score: float, seed: int, aligned: bool
) -> tuple[str, float]:
    """Ids from who watched what, and everybody's prior from what is popular."""
    videos = samples.take(samples.kind == VIEW)
    if not len(videos):
        return "", score
    config, titles = model.config, validator.tables.titles
    counts = np.bincount(videos.target_video, minlength=config.videos)
    popularity = torch.from_numpy(np.log1p(counts) / np.log1p(counts.max()))
    factors = cooccurrence_factors(videos.user, videos.target_video, config.videos, config.dim - 1, seed)
    said, plain, axes = "", copy(model), model.text_axes(titles) if aligned else None
    best = plain
    for prior in PRIORS:
        model.load_state_dict(plain)
        model.start_from_counts(torch.from_numpy(factors), popularity, titles, prior, axes)
        if (tried := validator(model).joint) > score * _PAYS:
            said, best, score = f"counts, prior {prior:g}", copy(model), tried
    model.load_state_dict(best)
    return said, score


def _half_lives(model: SR, validator: Validator, score: float) -> str:
    """How fast the profiles forget."""
    said = ""
    for name, half_life in (
        ("video", model.encoder.video_half_life),
        ("comment", model.encoder.comment_half_life),
    ):
        chosen = half_life.item()
        for positions in HALF_LIVES:
            half_life.data.fill_(math.log2(positions))
            if (tried := validator(model).joint) > score * _PAYS:
                chosen, score = half_life.item(), tried
        half_life.data.fill_(chosen)
        said += f", {name} half-life {2**chosen:g}"
    return said


def copy(model: SR) -> dict[str, Tensor]:
    """The weights as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
