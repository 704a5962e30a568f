"""ONNX graphs in the making: the parts of the SR encoder as incremental serving computes them.

See `offline_train.step_graphs` for what they make and how it is arranged.

Shapes: B users, V and C positions (at least 1, padded), L of either; d width, h heads, N rows that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from offline_train.weights import Array, Weights

OPSET = 20
_IR_VERSION = 10
#: ONNX Runtime's own operators: several of the standard's in one, where starting each is what costs
_FUSED = "com.microsoft"
_EPSILON = 1e-8
#: the logarithm of an empty softmax's denominator, and what masks: finite, so that nothing becomes NaN
_MASKED = -1e9
_END = 2**31
#: against a division by zero: the mean square of a vector of length 1e-12
_TINY = 1e-26


class Graph(Weights):
    """A graph in the making. Methods add nodes and return the name of what they give."""

    def __init__(self, weights: Mapping[str, Array], heads: int, temperature: float) -> None:
        super().__init__(weights, heads)
        self.temperature = temperature
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.count = 0
        self.renamed: dict[str, str] = {}

    # --- plumbing -----------------------------------------------------------------------------------------------------

    def finish(self, name: str) -> bytes:
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [self.renamed.get(value, value) for value in names]
        initializers = [numpy_helper.from_array(value, key) for key, value in self.constants.items()]
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(_FUSED, 1)]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, initializers)
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
        checker.check_model(model)
        return bytes(model.SerializeToString())

    def input(self, name: str, *shape: str | int, integer: bool = False) -> str:
        kind = TensorProto.INT64 if integer else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, *shape: str | int) -> None:
        # The node that makes it is renamed at the end: an Identity would be a node more to run.
        self.renamed[value] = name
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        name = f"{kind}_{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def split(self, x: str, sizes: Sequence[int]) -> list[str]:
        """Along the last axis."""
        self.count += 1
        names = [f"Split_{self.count}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.ints(*sizes)], names, axis=-1))
        return names

    def ints(self, *values: int) -> str:
        return self.constant("i" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.constant(f"f{value!r}", np.array(value, dtype=np.float32))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        self.constants.setdefault(name, np.ascontiguousarray(value))
        return name

    def parameter(self, name: str) -> str:
        return self.constant(name, self.w[name])

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    # --- parts --------------------------------------------------------------------------------------------------------

    def linear(self, x: str, name: str, matrix: Array, bias: Array) -> str:
        """x [N, in] times matrix [in, out] plus bias."""
        return self.op("Gemm", x, self.constant(f"{name}.matrix", matrix), self.constant(f"{name}.offset", bias))

    def named_linear(self, x: str, name: str) -> str:
        return self.linear(x, name, self.w[f"{name}.weight"].T, self.w[f"{name}.bias"])

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, epsilon=_EPSILON)

    def feed_forward(self, x: str, attended: str, layer: str) -> str:
        """The rest of a layer after its attention's output map; rows [N, d] -> [N, d]."""
        x = self.norm(self.op("Add", x, attended), f"{layer}.norm1")
        y = self.named_linear(self.op("Gelu", self.named_linear(x, f"{layer}.up")), f"{layer}.down")
        return self.norm(self.op("Add", x, y), f"{layer}.norm2")

    def mask(self, length: str, like: str) -> tuple[str, str]:
        """For lengths [B] and something [B, L, d]: [B, 1, L], 0 where a position is there and `_MASKED` where not, and
        [B, 1], 1 where any is."""
        width = self.op("Squeeze", self.op("Shape", like, start=1, end=2))
        at = self.op("Range", self.constant("zero", np.array(0)), width, self.constant("one", np.array(1)))
        there = self.op("Less", at, self.op("Unsqueeze", length, self.ints(1, 2)))
        mask = self.op("Where", there, self.number(0.0), self.number(_MASKED))
        has = self.op("Cast", self.op("Greater", self.op("Unsqueeze", length, self.ints(1)), self.ints(0)), to=1)
        return mask, has

    def later_positions(self, at: str) -> str:
        """For positions [L]: [L, L], `_MASKED` where the column is later than the row, else 0."""
        later = self.op("Less", self.op("Unsqueeze", at, self.ints(1)), self.op("Unsqueeze", at, self.ints(0)))
        return self.op("Where", later, self.number(_MASKED), self.number(0.0))

    def dot(self, x: str, memory: str) -> str:
        """x [B, h, d], memory [B, L, d] -> [B, h, L]."""
        return self.op("MatMul", x, self.op("Transpose", memory, perm=[0, 2, 1]))

    def per_head(self, x: str) -> str:
        return self.reshape(x, -1, self.heads, self.dim)

    def unit_of_sum(self, x: str, y: str) -> str:
        """x + y, both [N, d], at length 1 / temperature; zeros stay zeros."""
        # x / sqrt(mean x^2) has length sqrt(d)
        scale = self.constant("unit.scale", np.full(self.dim, self.dim**-0.5 / self.temperature))
        return self.op("SkipSimplifiedLayerNormalization", x, y, scale, domain=_FUSED, epsilon=_TINY)

    def mask_input(self, side: str) -> str:
        return self.input(f"{side}_mask", "B", 1, side[0].upper())

    # --- profiles -----------------------------------------------------------------------------------------------------

    def recent(self, vectors: str, length: str, at: str, flags: str, side: str) -> str:
        """The profile [B, d]: the mean of vectors [B, L, d], weighted by recency.

        `length` int64 [B], `at` int64 [L] the positions, `flags` float [B, L, 1] says which are there.
        """
        age = self.op("Sub", self.op("Sub", self.op("Unsqueeze", length, self.ints(1)), self.ints(1)), at)
        weights = self.op(
            "Gather", self.constant(f"{side}.recency", self.recency(side)), self.op("Max", age, self.ints(0))
        )
        weights = self.op("Mul", self.op("Unsqueeze", weights, self.ints(2)), flags)
        total = self.op("ReduceSum", self.op("Mul", vectors, weights), self.ints(1), keepdims=0)
        weight = self.op("ReduceSum", weights, self.ints(1), keepdims=0)  # [B, 1]
        return self.op("Div", total, self.op("Max", weight, self.number(1e-9)))

    def more_recent(self, recent: str, vector: str, at: str, side: str) -> str:
        """The profile [B, d] with one more vector [B, d], at position `at` int64 [B]."""
        newest = self.constant(f"{side}.newest", self.newest(side))
        weight = self.op("Unsqueeze", self.op("Gather", newest, at), self.ints(1))
        return self.op("Add", recent, self.op("Mul", weight, self.op("Sub", vector, recent)))

    # --- one more position --------------------------------------------------------------------------------------------

    def content(self, id_: str, title: str, text: str) -> str:
        return self.op("Add", id_, self.named_linear(self.op("Concat", title, text, axis=-1), "mix"))

    def start(self, content: str, at: str, side: str) -> str:
        """What goes into the first layer, [N, d]; `at` int64 [N] are positions."""
        position = self.op("Gather", self.parameter(f"{side}_history.position"), at)
        return self.norm(self.op("Add", content, position), f"{side}_history.norm")

    def append(self, x: str, memory: str, mask: str, layer: str) -> str:
        """One more row x [B, d] of a causal layer, after memory [B, L, d]; mask [B, 1, L + 1] also of the new row."""
        attention = f"{layer}.attention"
        matrix, offset, _, _ = self.through_keys(attention)
        query = self.per_head(self.linear(x, f"{attention}.absorbed", matrix, offset))
        visible = self.op("Concat", memory, self.op("Unsqueeze", x, self.ints(1)), axis=1)
        weights = self.op("Softmax", self.op("Add", self.dot(query, visible), mask), axis=-1)
        mean = self.op("MatMul", weights, visible)  # [B, h, d]
        through = self.through_values(attention)
        attended = self.linear(self.reshape(mean, -1, self.heads * self.dim), f"{attention}.through", *through)
        return self.feed_forward(x, attended, layer)

    def look_across(
        self, state: str, query: str, same: str, memory: str, mask: str, has: str, layer: str
    ) -> tuple[str, str, str]:
        """A new row's cross attention over the other side: mean value [B, d], log denominator [B, h], output [B, d]."""
        attention = f"{layer}.attention"
        scores = self.op(
            "Add",
            self.op("Add", self.dot(self.per_head(query), memory), mask),
            self.op("Unsqueeze", same, self.ints(2)),
        )
        log = self.op("ReduceLogSumExp", scores, self.ints(-1), keepdims=1)  # [B, h, 1]
        weights = self.op("Exp", self.op("Sub", scores, log))
        values, bias = self.values(attention)
        mean = self.linear(
            self.reshape(self.op("MatMul", weights, memory), -1, self.heads * self.dim),
            f"{attention}.value",
            values,
            bias,
        )
        mean = self.op("Mul", mean, has)
        return (
            mean,
            self.op("Squeeze", log, self.ints(2)),
            self.feed_forward(state, self.named_linear(mean, f"{attention}.out"), layer),
        )

    def one_more(self, score: str, log: str) -> tuple[str, str]:
        """A softmax's log denominator with one more score, and the share that stays with those that were there."""
        behind = self.op("Sub", log, score)
        # Not log + softplus(score - log): the log of nothing is so low that the score would be lost in it.
        return self.op("Add", score, self.op("Softplus", behind)), self.op("Sigmoid", behind)

    def one_more_key(self, key: str, same: str, value: str, states: str, mean: str, log: str) -> tuple[str, str]:
        """Cross rows' mean [B, L, d] and log denominator [B, h, L] after one more key with `value` [B, d].

        The key is given as `key` [B, h d] and `same` [B, h], in the space of the rows' states [B, L, d].
        """
        score = self.op("Add", self.dot(self.per_head(key), states), self.op("Unsqueeze", same, self.ints(2)))
        new_log, share = self.one_more(score, log)
        weight = self.op("Transpose", share, perm=[0, 2, 1])  # [B, L, h]
        weight = self.op("Unsqueeze", weight, self.ints(3))
        by_head = self.op("Reshape", mean, self.ints(0, 0, self.heads, self.head_dim))
        value = self.reshape(value, -1, 1, self.heads, self.head_dim)
        moved = self.op("Add", value, self.op("Mul", weight, self.op("Sub", by_head, value)))
        return self.op("Reshape", moved, self.ints(0, 0, self.dim)), new_log

    def cross_rows(self, states: str, mean: str, rows: str, places: str, layer: str) -> tuple[str, str, str]:
        """Cross outputs of all rows: those that are there [N, d] with their states, and padded [B, L, d]."""
        there = self.op("Gather", self.reshape(states, -1, self.dim), rows)
        attended = self.named_linear(
            self.op("Gather", self.reshape(mean, -1, self.dim), rows), f"{layer}.attention.out"
        )
        crossed = self.feed_forward(there, attended, layer)
        padded = self.op("Reshape", self.op("Gather", crossed, places), self.op("Shape", states))
        return there, crossed, padded

    # --- preferences --------------------------------------------------------------------------------------------------

    def logits(self, state: str, cross: str) -> str:
        """The pooling's scores of fused video states, [N, 1]."""
        y = self.linear(self.op("Concat", state, cross, axis=-1), "pooling.fused", *self.through_fusion())
        return self.named_linear(self.op("Gelu", self.norm(y, "pooling.norm")), "pooling.score")

    def video_preference(self, pooled: str, has: str | None, recent: str) -> str:
        """pooled [B, 2 d]: states' and cross rows' means under the pooling's softmax; recent [B, d]: the profile."""
        fused = self.named_linear(pooled, "video_fusion")
        if has is not None:
            fused = self.op("Mul", fused, has)
        profile = self.op("Mul", recent, self.parameter("video_profile"))
        return self.unit_of_sum(self.op("Add", self.parameter("video_prior"), fused), profile)

    def pool(self, states: str, crosses: str, logits: str, mask: str) -> tuple[str, str]:
        """logits [B, 1, L] unmasked, states and crosses [B, L, d]: pooled [B, 2 d], log denominator [B, 1]."""
        masked = self.op("Add", logits, mask)
        log = self.op("ReduceLogSumExp", masked, self.ints(-1), keepdims=1)
        weights = self.op("Exp", self.op("Sub", masked, log))
        means = [self.op("MatMul", weights, part) for part in (states, crosses)]  # [B, 1, d]
        return self.reshape(self.op("Concat", *means, axis=-1), -1, 2 * self.dim), self.reshape(log, -1, 1)

    def comment_preference(self, query: str, parts: Sequence[tuple[str, ...]], has: str | None, recent: str) -> str:
        """The preference [B, d] for the video that `query` [B, d] stands for.

        parts: states [B, L, d], cross rows and, unless all are there, mask of comment records.
        recent: [B, d], the profile of their texts.
        """
        attention = "comment_attention"
        absorbed = self.linear(query, f"{attention}.absorbed", *self.comment_query())
        for_states, for_crosses = map(self.per_head, self.split(absorbed, [self.heads * self.dim] * 2))
        scores = []
        for states, crosses, *mask in parts:
            score = self.op("Add", self.dot(for_states, states), self.dot(for_crosses, crosses))
            scores.append(self.op("Add", score, *mask) if mask else score)
        weights = [self.op("Softmax", scores[0], axis=-1)]
        if len(parts) == 2:  # the second is one record
            weights = []
            both = self.op("Softmax", self.op("Concat", *scores, axis=-1), axis=-1)
            for begin, end in ((0, -1), (-1, _END)):
                weights.append(self.op("Slice", both, self.ints(begin), self.ints(end), self.ints(-1)))
        means = []
        for which in (0, 1):
            terms = [self.op("MatMul", weight, part[which]) for weight, part in zip(weights, parts, strict=True)]
            means.append(terms[0] if len(terms) == 1 else self.op("Add", *terms))
        both = self.reshape(self.op("Concat", *means, axis=-1), -1, self.heads * 2 * self.dim)
        attended = self.linear(both, f"{attention}.through", *self.comment_through())
        if has is not None:
            attended = self.op("Mul", attended, has)
        attended = self.op("Add", attended, self.parameter(f"{attention}.out.bias"))
        preference = self.norm(self.op("Add", query, attended), "comment_norm")
        profile = self.op("Mul", recent, self.parameter("comment_profile"))
        return self.unit_of_sum(preference, profile)
