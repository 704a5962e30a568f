"""The map to z, fitted before the language model learns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from offline_train.alignment_config import AlignmentConfig
from offline_train.alignment_losses import usable_for_z, z_contrast
from offline_train.alignment_model import Aligner
from offline_train.alignment_samples import AlignmentBatch
from offline_train.processes import gather


def fit_z(heads: Aligner, batch: AlignmentBatch, pooled: Tensor, states: Tensor, config: AlignmentConfig) -> float:
    """Teach the map to z whose preference a state of the unchanged LLM belongs to; the rest of the heads stands still.

    Args:
        batch: this process's samples, of all processes as many.
        pooled: the batch's texts, [n, d_llm].
        states: at the ends of the batch's prompts, [b, d_llm].

    Returns: the contrast less its chance in nats, over the last tenth of the steps.
    """
    with torch.no_grad():
        states = gather(states)
        heads.z_standard.fit(states)
        preference = F.normalize(gather(heads.preferences(batch, pooled)[0]), dim=-1)
        kind, user = (gather(torch.from_numpy(batch.columns[name]).to(states.device)) for name in ("kind", "user"))
    optimizer = torch.optim.AdamW(heads.to_z.parameters(), lr=1e-3, weight_decay=1e-2)
    gains = []
    for step in range(config.z_steps):
        random = np.random.default_rng((config.seed, 6, step))
        chosen = torch.from_numpy(random.permutation(len(states))[: config.batch]).to(states.device)
        z = F.normalize(heads.to_z(heads.z_standard(states[chosen])), dim=-1)
        usable = usable_for_z(kind[chosen], user[chosen])
        loss = z_contrast(preference[chosen], z, usable, config.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        gains.append(float(loss.detach() - usable.sum(1).double().log().mean()))
    return float(np.mean(gains[-max(1, config.z_steps // 10) :]))
