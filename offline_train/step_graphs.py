"""The SR encoder as ONNX graphs, built from its weights: the whole encoding, and those of incremental serving
(`model_runtime.sessions`).

    encoder       both histories -> preferences
    fill          both histories -> preferences, and everything that later steps need
    video_step    one more video, comment_step: one more comment record -> preferences, and what changed
    query         the user is on another video -> comment preference

They compute what `sr.SREncoder` does, arranged so that little is kept and little is done again:

* Queries are multiplied through to the space of the states (q W_k x = (W_k^T q) x), and so are values, so that only the
  inputs of the layers are kept for each position, no keys and no values.
* A cross row's attention is kept as its mean value and the logarithm of its softmax's denominator: one more key moves
  the mean by w (v - mean), with w = sigmoid(score - log denominator).
* The fused states are never formed: pooling and comment attention are linear in [state; cross] up to their softmax.
* A profile, weighted by recency, moves towards one more entry by what the newest of so many weighs.
* What is left for every position of the other side is the cross layer's feed-forward. It runs on rows that are there,
  without padding: `rows` says where in [B * L] they are, `places` for each of [B * L] which row it is.

Shapes: B users, V and C positions (at least 1, padded), d width, h heads, N rows that are there. The steps take masks
(0 where a position is there, -1e9 where not), because a dozen tiny operations in a graph cost more than outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline_train.graph import Graph
from offline_train.whole_history import History


def step_graphs(weights: Mapping[str, NDArray[Any]], *, heads: int, temperature: float) -> dict[str, bytes]:
    """The graphs by name, from the weights of `SREncoder.state_dict()` as arrays."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    makers = {"fill": _fill, "video_step": _video_step, "comment_step": _comment_step, "query": _query}
    graphs = {}
    for name, make in makers.items():
        graph = Graph(w, heads, temperature)
        make(graph)
        graphs[name] = graph.finish(name)
    return graphs


def encoder_graph(weights: Mapping[str, NDArray[Any]], *, heads: int, temperature: float) -> bytes:
    """The whole encoding as a graph of its own, from the same weights; which rows are there it finds by itself."""
    g = Graph({name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}, heads, temperature)
    _whole(g, _rows_there)
    return g.finish("encoder")


def _rows_there(g: Graph, name: str, like: str, length: str) -> tuple[str, str]:
    """`rows` and `places` of histories [B, L, d]. Row 0 stands first in any case, so that there is one."""
    width = g.op("Squeeze", g.op("Shape", like, start=1, end=2))
    at = g.op("Range", g.constant("zero", np.array(0)), width, g.constant("one", np.array(1)))
    flags = g.reshape(g.op("Cast", g.op("Less", at, g.op("Unsqueeze", length, g.ints(1))), to=7), -1)
    found = g.reshape(g.op("NonZero", flags), -1)
    return g.op("Concat", g.ints(0), found, axis=0), g.op("CumSum", flags, g.constant("zero", np.array(0)))


def _rows_given(g: Graph, name: str, like: str, length: str) -> tuple[str, str]:
    size = name[0].upper()
    return g.input(f"{name}_rows", "N" + size, integer=True), g.input(f"{name}_places", "B" + size, integer=True)


def _whole(g: Graph, rows_of: Callable[[Graph, str, str, str], tuple[str, str]]) -> _Whole:
    """Both preferences from both histories."""
    d, side = g.dim, {}
    query = g.input("query", "B", d)
    for name, text in (("video", "comment"), ("comment", "text")):
        inputs = [g.input(f"{name}_{part}", "B", name[0].upper(), d) for part in ("id", "title", text)]
        length = g.input(f"{name}_length", "B", integer=True)
        side[name] = History(g, name, inputs, length, *rows_of(g, name, inputs[0], length))
    video, comment = side["video"], side["comment"]
    video.look_across(comment)
    comment.look_across(video)
    logits = g.op("Gather", g.logits(video.states, video.crosses), video.places)
    logits = g.op("Reshape", logits, g.op("Shape", video.mask))
    pooled, pooled_log = g.pool(video.padded(video.states), video.padded(video.crosses), logits, video.mask)
    video_recent, comment_recent = video.recent(video.padded(video.content)), comment.recent(comment.inputs[2])
    parts = [(comment.padded(comment.states), comment.padded(comment.crosses), comment.mask)]
    g.output("video_preference", g.video_preference(pooled, video.has, video_recent), "B", d)
    g.output("comment_preference", g.comment_preference(query, parts, comment.has, comment_recent), "B", d)
    return _Whole(video, comment, pooled, pooled_log, video_recent, comment_recent)


class _Whole(NamedTuple):
    """What was computed on the way."""

    video: History
    comment: History
    pooled: str
    pooled_log: str
    video_recent: str
    comment_recent: str


def _fill(g: Graph) -> None:
    d = g.dim
    video, comment, pooled, pooled_log, video_recent, comment_recent = _whole(g, _rows_given)
    for history in (video, comment):
        for layer, x in enumerate(history.layer_inputs):
            g.output(f"{history.name}_{layer}", history.padded(x), "B", "L", d)
        g.output(f"{history.name}_state", history.padded(history.states), "B", "L", d)
        g.output(f"{history.name}_mean", history.mean, "B", "L", d)
        g.output(f"{history.name}_log", history.log, "B", g.heads, "L")
    g.output("comment_cross", comment.padded(comment.crosses), "B", "L", d)
    g.output("pooled", pooled, "B", 2 * d)
    g.output("pooled_log", pooled_log, "B", 1)
    g.output("video_recent", video_recent, "B", d)
    g.output("comment_recent", comment_recent, "B", d)


def _own_side(g: Graph, side: str, other: str) -> dict[str, str]:
    """The new row of `side`, and the other side's cross rows with one more key."""
    d, heads = g.dim, g.heads
    size, other_size = side[0].upper(), other[0].upper()
    id_, title, text = (g.input(name, "B", d) for name in ("id", "title", "text"))
    memories = [g.input(f"{side}_{layer}", "B", size, d) for layer in range(g.layers)]
    other_state = g.input(f"{other}_state", "B", other_size, d)
    other_mean, other_log = (
        g.input(f"{other}_mean", "B", other_size, d),
        g.input(f"{other}_log", "B", heads, other_size),
    )
    rows, places = g.input("rows", "N", integer=True), g.input("places", "M", integer=True)
    mask, other_mask, other_has = g.mask_input(side), g.mask_input(other), g.input(f"has_{other}", "B", 1)
    position = g.input("position", "B", integer=True)
    content = g.content(id_, title, text)
    x = g.start(content, position, side)
    # the new row sees itself
    own_mask = g.op("Pad", mask, g.ints(0, 0, 0, 0, 0, 1), g.number(0.0))
    for layer, memory in enumerate(memories):
        g.output(f"new_{layer}", x, "B", d)
        x = g.append(x, memory, own_mask, f"{side}_history.layers.{layer}")
    g.output("new_state", x, "B", d)
    # In one product: what the new row asks of the other side, and what it is as a key and a value to it.
    products = g.linear(x, f"{side}_cross.products", *g.cross_products(side, other))
    query, same, key, key_same, as_value = g.split(products, [heads * d, heads, heads * d, heads, d])
    mean, log, cross = g.look_across(x, query, same, other_state, other_mask, other_has, f"{side}_cross")
    g.output("new_mean", mean, "B", d)
    g.output("new_log", log, "B", heads)
    moved, moved_log = g.one_more_key(key, key_same, as_value, other_state, other_mean, other_log)
    g.output(f"moved_{other}_mean", moved, "B", other_size, d)
    g.output(f"moved_{other}_log", moved_log, "B", heads, other_size)
    there, crossed, padded = g.cross_rows(other_state, moved, rows, places, f"{other}_cross")
    return {
        "content": content, "text": text, "mask": mask, "state": x, "cross": cross, "other_state": other_state,
        "other_mask": other_mask, "other_has": other_has, "there": there, "crossed": crossed, "padded": padded,
    }  # fmt: skip


def _video_step(g: Graph) -> None:
    d = g.dim
    query = g.input("query", "B", d)
    pooled, pooled_log = g.input("pooled", "B", 2 * d), g.input("pooled_log", "B", 1)
    video_recent, comment_recent = g.input("video_recent", "B", d), g.input("comment_recent", "B", d)
    new = _own_side(g, "video", "comment")
    logit = g.logits(new["state"], new["cross"])  # [B, 1]
    moved_log, share = g.one_more(logit, pooled_log)
    g.output("moved_pooled_log", moved_log, "B", 1)
    both = g.op("Concat", new["state"], new["cross"], axis=-1)
    pooled = g.op("Add", both, g.op("Mul", share, g.op("Sub", pooled, both)))
    g.output("moved_pooled", pooled, "B", 2 * d)
    video_recent = g.more_recent(video_recent, new["content"], "position", "video")
    g.output("moved_video_recent", video_recent, "B", d)
    g.output("video_preference", g.video_preference(pooled, None, video_recent), "B", d)
    g.output("moved_comment_cross", new["padded"], "B", "C", d)
    parts = [(new["other_state"], new["padded"], new["other_mask"])]
    preference = g.comment_preference(query, parts, new["other_has"], comment_recent)
    g.output("comment_preference", preference, "B", d)


def _comment_step(g: Graph) -> None:
    d = g.dim
    query = g.input("query", "B", d)
    states, crosses = g.input("comment_state", "B", "C", d), g.input("comment_cross", "B", "C", d)
    video_recent, comment_recent = g.input("video_recent", "B", d), g.input("comment_recent", "B", d)
    new = _own_side(g, "comment", "video")
    g.output("new_cross", new["cross"], "B", d)
    logits = g.op("Gather", g.logits(new["there"], new["crossed"]), "places")
    logits = g.op("Reshape", logits, g.op("Shape", new["other_mask"]))
    pooled, pooled_log = g.pool(new["other_state"], new["padded"], logits, new["other_mask"])
    g.output("moved_pooled", pooled, "B", 2 * d)
    g.output("moved_pooled_log", pooled_log, "B", 1)
    g.output("video_preference", g.video_preference(pooled, new["other_has"], video_recent), "B", d)
    comment_recent = g.more_recent(comment_recent, new["text"], "position", "comment")
    g.output("moved_comment_recent", comment_recent, "B", d)
    one = g.ints(1)
    parts = [
        (states, crosses, new["mask"]),
        (g.op("Unsqueeze", new["state"], one), g.op("Unsqueeze", new["cross"], one)),
    ]
    g.output("comment_preference", g.comment_preference(query, parts, None, comment_recent), "B", d)


def _query(g: Graph) -> None:
    d = g.dim
    query, mask, has = g.input("query", "B", d), g.mask_input("comment"), g.input("has_comment", "B", 1)
    states, crosses = g.input("comment_state", "B", "C", d), g.input("comment_cross", "B", "C", d)
    recent = g.input("comment_recent", "B", d)
    g.output("comment_preference", g.comment_preference(query, [(states, crosses, mask)], has, recent), "B", d)
