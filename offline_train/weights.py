"""Weights of the SR encoder, multiplied together once: what incremental serving computes with.

Attention's queries are multiplied through to the space of what they are asked of, (q W_k x = (W_k^T q) x), and so are
values: only the inputs of layers are kept for each position, no keys and no values (`offline_train.step_graphs`).

Shapes: d width, h heads, W window. Matrices are [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Weights:
    """The weights of `SREncoder.state_dict()` as arrays, and products of them."""

    def __init__(self, weights: Mapping[str, Array], heads: int) -> None:
        self.w, self.heads = weights, heads
        self.dim = len(weights["mix.bias"])
        self.head_dim = self.dim // heads
        self.layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("video_history.layers."))

    def head(self, name: str, head: int) -> tuple[Array, Array]:
        """Weight [d / h, d] and bias [d / h] of one head of a query, key or value map."""
        part = slice(head * self.head_dim, (head + 1) * self.head_dim)
        return self.w[f"{name}.weight"][part], self.w[f"{name}.bias"][part]

    def through_keys(self, attention: str) -> tuple[Array, Array, Array, Array]:
        """Maps from a row x to what its queries are in the space of the memory: [d, h d], [h d], and to the part of its
        scores that is the same for all keys: [d, h], [h]."""
        return self._through(f"{attention}.query", f"{attention}.key")

    def through_queries(self, attention: str) -> tuple[Array, Array, Array, Array]:
        """The same, seen from a key: what it is in the space of the queries' rows."""
        return self._through(f"{attention}.key", f"{attention}.query")

    def _through(self, mine: str, theirs: str) -> tuple[Array, Array, Array, Array]:
        matrices, offsets, same, same_offset = [], [], [], []
        for i in range(self.heads):
            (a, ab), (b, bb) = self.head(mine, i), self.head(theirs, i)
            matrices.append(a.T @ b)
            offsets.append(ab @ b)
            same.append(a.T @ bb)
            same_offset.append(ab @ bb)
        scale = np.sqrt(self.head_dim)
        matrix, offset = np.concatenate(matrices, 1) / scale, np.concatenate(offsets) / scale
        return matrix, offset, np.stack(same, 1) / scale, np.array(same_offset) / scale

    def values(self, attention: str) -> tuple[Array, Array]:
        """From means of memory per head [h d] to the heads' values [d]: [h d, d], [d]."""
        matrix = np.zeros((self.heads * self.dim, self.dim))
        for i in range(self.heads):
            value, _ = self.head(f"{attention}.value", i)
            matrix[i * self.dim : (i + 1) * self.dim, i * self.head_dim : (i + 1) * self.head_dim] = value.T
        return matrix, self.w[f"{attention}.value.bias"]

    def through_values(self, attention: str) -> tuple[Array, Array]:
        """From means of memory per head [h d] to what is attended [d]: [h d, d], [d]."""
        values, bias = self.values(attention)
        out, out_bias = self.w[f"{attention}.out.weight"].T, self.w[f"{attention}.out.bias"]
        return values @ out, bias @ out + out_bias

    def cross_products(self, side: str, other: str) -> tuple[Array, Array]:
        """What a new state asks of the other side (query [h d], same for all keys [h]), and what it is to it as a key
        ([h d] and [h]) and as a value [d]: [d, 2 h d + 2 h + d], [2 h d + 2 h + d]."""
        own, its = self.through_keys(f"{side}_cross.attention"), self.through_queries(f"{other}_cross.attention")
        value = self.w[f"{other}_cross.attention.value.weight"].T, self.w[f"{other}_cross.attention.value.bias"]
        maps = [own[:2], own[2:], its[:2], its[2:], value]
        return np.concatenate([m for m, _ in maps], 1), np.concatenate([b for _, b in maps])

    def through_fusion(self) -> tuple[Array, Array]:
        """From [state; cross] of a video to the pooling's hidden layer: [2 d, 2 d], [2 d]."""
        up, up_bias = self.w["pooling.up.weight"].T, self.w["pooling.up.bias"]
        fusion, fusion_bias = self.w["video_fusion.weight"].T, self.w["video_fusion.bias"]
        return fusion @ up, fusion_bias @ up + up_bias

    def comment_query(self) -> tuple[Array, Array]:
        """What the current video asks of comment records' states [h d] and cross rows [h d]: [d, 2 h d], [2 h d]."""
        d, fusion = self.dim, self.w["comment_fusion.weight"]
        matrix, offset, _, _ = self.through_keys("comment_attention")
        by_head = matrix.reshape(d, self.heads, d), offset.reshape(self.heads, d)
        on_state, on_cross = ([part @ half for part in by_head] for half in (fusion[:, :d], fusion[:, d:]))
        return (
            np.concatenate([on_state[0].reshape(d, -1), on_cross[0].reshape(d, -1)], 1),
            np.concatenate([on_state[1].ravel(), on_cross[1].ravel()]),
        )

    def comment_through(self) -> tuple[Array, Array]:
        """From means per head, of the states and then of the cross rows, to what is attended, without the output map's
        bias: [2 h d, d], [d]."""
        attention, d = "comment_attention", self.dim
        fusion, fusion_bias = self.w["comment_fusion.weight"], self.w["comment_fusion.bias"]
        values, value_bias = self.values(attention)
        out = self.w[f"{attention}.out.weight"].T
        through = (values @ out).reshape(self.heads, d, d)  # from a fused mean per head
        halves = [(half.T @ through) for half in (fusion[:, :d], fusion[:, d:])]
        matrix = np.stack(halves, 1).reshape(-1, d)
        return matrix, np.tile(fusion_bias, self.heads) @ (values @ out) + value_bias @ out

    def recency(self, side: str) -> Array:
        """[W]: what entries of a history weigh in its profile, by how many positions are newer."""
        window = len(self.w[f"{side}_history.position"])
        weights: Array = np.exp2(-np.arange(window) * np.exp2(-self.w[f"{side}_half_life"]))
        return weights

    def newest(self, side: str) -> Array:
        """[W]: what the newest entry weighs in its profile, by its position."""
        weights: Array = 1 / np.cumsum(self.recency(side))
        return weights
