"""Weights of the compiled steps (`model_runtime.step_kernel`), multiplied together once instead of at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_runtime.step_weights import StepWeights
from offline_train.weights import Array, Weights


def step_weights(weights: Mapping[str, NDArray[Any]], *, heads: int, temperature: float) -> StepWeights:
    """From the weights of `SREncoder.state_dict()` as arrays."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    g = Weights(w, heads)
    parts: dict[str, Array] = {
        **_linear("mix", *_named(w, "mix")),
        **_linear("pooling", *g.through_fusion()),
        **_norm("pooling_norm", w, "pooling.norm"),
        **_linear("pooling_score", w["pooling.score.weight"].T, w["pooling.score.bias"]),
        **_linear("video_fusion", *_named(w, "video_fusion")),
        "video_prior": w["video_prior"],
        **_linear("comment_query", *g.comment_query()),
        **_linear("comment_through", *g.comment_through()),
        "comment_out": w["comment_attention.out.bias"],
        **_norm("comment_norm", w, "comment_norm"),
        "scale": np.array(1 / temperature),
    }
    for side, other in (("video", "comment"), ("comment", "video")):
        parts |= {
            f"{side}_position": w[f"{side}_history.position"],
            **_norm(f"{side}_start_norm", w, f"{side}_history.norm"),
            f"{side}_newest": g.newest(side),
            f"{side}_profile": w[f"{side}_profile"].reshape(()),
        }
        for layer in range(g.layers):
            name = f"{side}_history.layers.{layer}"
            matrix, offset, _, _ = g.through_keys(f"{name}.attention")
            parts |= _linear(f"{side}_{layer}_query", matrix, offset)
            parts |= _linear(f"{side}_{layer}_through", *g.through_values(f"{name}.attention"))
            parts |= _rest(f"{side}_{layer}", w, name)
        parts |= _linear(f"{side}_cross_query", *g.cross_products(side, other))
        parts |= _linear(f"{side}_cross_through", *g.values(f"{side}_cross.attention"))
        parts |= _rest(f"{side}_cross", w, f"{side}_cross")
        parts |= _linear(f"{side}_cross_out", *_named(w, f"{side}_cross.attention.out"))
    return StepWeights({name: part.astype(np.float32) for name, part in parts.items()}, heads)


def _named(w: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    return w[f"{name}.weight"].T, w[f"{name}.bias"]


def _linear(name: str, matrix: Array, bias: Array) -> dict[str, Array]:
    """matrix [in, out]."""
    return {name: matrix, f"{name}_bias": bias}


def _norm(name: str, w: Mapping[str, Array], of: str) -> dict[str, Array]:
    return {name: w[f"{of}.weight"], f"{name}_bias": w[f"{of}.bias"]}


def _rest(name: str, w: Mapping[str, Array], of: str) -> dict[str, Array]:
    """A layer but for its attention."""
    return {
        **_norm(f"{name}_norm1", w, f"{of}.norm1"),
        **_linear(f"{name}_up", *_named(w, f"{of}.up")),
        **_linear(f"{name}_down", *_named(w, f"{of}.down")),
        **_norm(f"{name}_norm2", w, f"{of}.norm2"),
    }
