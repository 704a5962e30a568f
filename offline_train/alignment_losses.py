"""The contrastive losses of stage 1 (paper, section 3.3), on vectors alone.

All inputs are brought to unit length here; n samples of the whole batch, d wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07


@dataclass(frozen=True)
class Contrasts:
    """Losses in nats. A `chance` is what equal scores for all usable candidates would give: ln(their number)."""

    rec: Tensor  #: preference against the targets' text vectors
    rec_chance: Tensor
    behaviour: Tensor  #: z against the two histories' preferences; chance is ln 2
    z: Tensor  #: mean of both directions of the InfoNCE between preference and z
    z_chance: Tensor

    @property
    def align(self) -> Tensor:
        """L_align: behaviour contrast, and half of each direction with z."""
        return self.behaviour + self.z


def contrasts(
    preference: Tensor,
    other: Tensor,
    z: Tensor,
    target: Tensor,
    *,
    kind: Tensor,
    user: Tensor,
    target_text: Tensor,
    both: Tensor,
    scale: Tensor,
    temperature: float = TEMPERATURE,
) -> Contrasts:
    """Of a whole batch, the losses.

    Negatives are samples of the same kind: telling a title from a comment is easy, and would hide whether anything else
    was learned. A sample with the same target text is no negative for a target, and one of the same user none for z:
    both would be as right.

    Args:
        preference: [n, d] the SR's, of the history that the sample's kind is about.
        other: [n, d] pooled in the same way from the other history.
        z: [n, d] the LLM's user representation.
        target: [n, d] A t(target).
        kind, user, target_text: int64 [n].
        both: bool [n], both histories hold something, so that their preferences can be told apart.
        scale: [n], what the cosines of `rec` are multiplied by, beside 1 / temperature.
    """
    preference, other, z, target = (F.normalize(x, dim=-1) for x in (preference, other, z, target))
    alike = kind[:, None] == kind[None, :]
    self_ = torch.eye(len(kind), dtype=torch.bool, device=kind.device)
    for_target = alike & ((target_text[:, None] != target_text[None, :]) | self_)
    for_z = usable_for_z(kind, user)
    scores = torch.stack(((z * preference).sum(-1), (z * other).sum(-1)), -1) / temperature  # [n, 2]
    behaviour = F.cross_entropy(scores, torch.zeros_like(kind), reduction="none")
    return Contrasts(
        rec=info_nce(preference * scale[:, None], target, for_target, temperature),
        rec_chance=for_target.sum(1).double().log().mean(),
        behaviour=(behaviour * both).sum() / both.sum().clamp(min=1),
        z=z_contrast(preference, z, for_z, temperature),
        z_chance=for_z.sum(1).double().log().mean(),
    )


def usable_for_z(kind: Tensor, user: Tensor) -> Tensor:
    """bool [n, n]: which samples compete in the contrast with z: those of the same kind, of other users, and itself."""
    self_ = torch.eye(len(kind), dtype=torch.bool, device=kind.device)
    return (kind[:, None] == kind[None, :]) & ((user[:, None] != user[None, :]) | self_)


def z_contrast(preference: Tensor, z: Tensor, usable: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Half of each direction of the InfoNCE between preferences and z; unit vectors [n, d]."""
    return (info_nce(preference, z, usable, temperature) + info_nce(z, preference, usable, temperature)) / 2


def info_nce(anchors: Tensor, candidates: Tensor, usable: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Mean over rows i of -log softmax over the usable candidates, at candidate i. Vectors [n, d], bool [n, n]."""
    logits = (anchors @ candidates.T / temperature).masked_fill(~usable, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))
