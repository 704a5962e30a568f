"""One history from its beginning, as part of the graph `fill` (`offline_train.step_graphs`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline_train.graph import Graph


class History:
    """The states of a history, and its cross rows once `look_across` was called.

    Rows [N, d] are those that are there; `padded` makes them [B, L, d].
    """

    def __init__(self, g: Graph, name: str, inputs: Sequence[str], length: str, rows: str, places: str) -> None:
        """inputs: id, title and text vectors [B, L, d]; `rows` int64 [N], `places` int64 [B L]: what is there."""
        self.g, self.name, self.inputs, self.rows, self.places = g, name, inputs, rows, places
        self.shape = g.op("Shape", inputs[0])
        self.mask, self.has = g.mask(length, inputs[0])  # [B, 1, L], [B, 1]
        width = g.op("Gather", self.shape, g.ints(1))
        at = g.op("Range", g.constant("zero", np.array(0)), g.op("Squeeze", width), g.constant("one", np.array(1)))
        self.length, self.at = length, at
        flags = g.op("Less", at, g.op("Unsqueeze", length, g.ints(1)))  # [B, L]
        self.flags = g.op("Unsqueeze", g.op("Cast", flags, to=1), g.ints(2))
        self.causal = g.later_positions(at)  # [L, L]
        position = g.op("Mod", rows, width)
        id_, title, text = (self.there(x) for x in inputs)
        self.content = g.content(id_, title, text)
        x = g.start(self.content, position, name)
        self.layer_inputs = []
        for layer in range(g.layers):
            self.layer_inputs.append(x)
            x = self._layer(x, f"{name}_history.layers.{layer}")
        self.states = x

    def there(self, padded: str) -> str:
        """[B, L, d] -> rows."""
        return self.g.op("Gather", self.g.reshape(padded, -1, self.g.dim), self.rows)

    def padded(self, rows: str) -> str:
        """Rows -> [B, L, d]; what stands in padding is a copy of some row."""
        return self.g.op("Reshape", self.g.op("Gather", rows, self.places), self.shape)

    def recent(self, padded: str) -> str:
        """The profile [B, d] of vectors [B, L, d]."""
        return self.g.recent(padded, self.length, self.at, self.flags, self.name)

    def by_head(self, rows: str) -> str:
        """Rows -> [B, h, L, d / h]."""
        g = self.g
        split = g.op("Reshape", self.padded(rows), g.ints(0, 0, g.heads, g.head_dim))
        return g.op("Transpose", split, perm=[0, 2, 1, 3])

    def _layer(self, x: str, layer: str) -> str:
        mean, _ = self._attend(x, self, x, self.causal, f"{layer}.attention")
        attended = self.g.named_linear(self.there(mean), f"{layer}.attention.out")
        return self.g.feed_forward(x, attended, layer)

    def look_across(self, other: History) -> None:
        """Attend to the other history: `mean` [B, L, d], `log` [B, h, L], `crosses` rows."""
        g, layer = self.g, f"{self.name}_cross"
        mask = g.op("Unsqueeze", other.mask, g.ints(1))  # [B, 1, 1, M]
        mean, self.log = self._attend(self.states, other, other.states, mask, f"{layer}.attention")
        self.mean = g.op("Mul", mean, g.op("Unsqueeze", other.has, g.ints(2)))
        attended = g.named_linear(self.there(self.mean), f"{layer}.attention.out")
        self.crosses = g.feed_forward(self.states, attended, layer)

    def _attend(self, x: str, other: History, memory: str, mask: str, attention: str) -> tuple[str, str]:
        """Mean value [B, L, d] and log denominator [B, h, L] of rows x over the other history's rows `memory`."""
        g = self.g
        query, key, value = (
            g.named_linear(y, f"{attention}.{m}") for y, m in ((x, "query"), (memory, "key"), (memory, "value"))
        )
        keys = g.op("Transpose", other.by_head(key), perm=[0, 1, 3, 2])
        scale = g.number(g.head_dim**-0.5)
        scores = g.op("Add", g.op("Mul", g.op("MatMul", self.by_head(query), keys), scale), mask)
        log = g.op("ReduceLogSumExp", scores, g.ints(-1), keepdims=1)
        weights = g.op("Exp", g.op("Sub", scores, log))
        mean = g.op("Transpose", g.op("MatMul", weights, other.by_head(value)), perm=[0, 2, 1, 3])
        return g.op("Reshape", mean, self.shape), g.op("Squeeze", log, g.ints(3))
