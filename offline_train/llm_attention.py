"""Causal attention that is fast on a CPU for the short sequences of stage 1.

PyTorch's fused attention works through a sequence in blocks, which pays for sequences of thousands of tokens. A prompt
here has some hundreds and a text sixteen: one product per key head, for all query heads that share it, takes a third of
the time in bf16, forward and backward, and a tenth where texts are that short.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: the name under which `transformers` knows it
NAME = "lsvcr_short"
#: tokens; from about here on the fused one is faster, and the scores' memory grows with the square
LONGEST = 512


def register() -> str:
    """Make it known to `transformers`; gives the name to set for a model that attends by `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as `transformers` calls it: queries [n, H, L, d], keys and values [n, K, L, d], K a divisor of H.

    Whatever is not causal self-attention over a short sequence on a CPU is left to PyTorch's fused one.

    Returns:
        [n, L, H, d] and None, which stands for the weights nobody asked for.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    n, heads, length, dim = query.shape
    plain = causal and attention_mask is None and not dropout and options.get("position_bias") is None
    if not (plain and query.device.type == "cpu" and key.shape[2] == length <= LONGEST):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        given = (attention_mask, dropout, scaling, is_causal)
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, *given, **options)
        return result
    kinds = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    together = (query * scale).reshape(n, kinds, heads // kinds * length, dim)
    scores = (together @ key.transpose(-1, -2)).view(n, kinds, heads // kinds, length, length)
    later = torch.full((length, length), float("-inf"), dtype=scores.dtype).triu(1)
    weights = torch.softmax(scores + later, -1).view(n, kinds, heads // kinds * length, length)
    return (weights @ value).view(n, heads, length, dim).transpose(1, 2).contiguous(), None
