"""A small model with random weights, as a bundle, and the same model written down a second time in plain numpy.

The encoder sums what a history holds, weighted by position, so that a wrong row, order or mask shows in the scores.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
from onnx import numpy_helper

from model_runtime.bundle import Bundle, write_bundle
from model_runtime.ids import video_digest
from model_runtime.scorer import Request

TAU = 0.07

_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
reference (
    float[B,V,D] video_id, float[B,V,D] video_title, float[B,V,D] video_comment, int64[B] video_length,
    float[B,C,D] comment_id, float[B,C,D] comment_title, float[B,C,D] comment_text, int64[B] comment_length,
    float[B,D] query
) => (float[B,D] video_preference, float[B,D] comment_preference)
{
    axis0 = Constant <value = int64[1] {0}> ()
    axis1 = Constant <value = int64[1] {1}> ()
    axis2 = Constant <value = int64[1] {2}> ()
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    half = Constant <value = float {0.5}> ()
    quarter = Constant <value = float {0.25}> ()
    tau = Constant <value = float {0.07}> ()

    v_shape = Shape (video_id)
    v_width = Gather (v_shape, one)
    v_at = Range (zero, v_width, one)
    v_row = Unsqueeze (v_at, axis0)
    v_end = Unsqueeze (video_length, axis1)
    v_mask = Less (v_row, v_end)
    v_mask_f = Cast <to = 1> (v_mask)
    v_next = Add (v_row, one)
    v_place = Cast <to = 1> (v_next)
    v_weight2 = Mul (v_mask_f, v_place)
    v_weight = Unsqueeze (v_weight2, axis2)
    v_half = Mul (video_title, half)
    v_quarter = Mul (video_comment, quarter)
    v_text = Add (v_half, v_quarter)
    v_content = Add (video_id, v_text)
    v_weighted = Mul (v_content, v_weight)
    v_sum = ReduceSum <keepdims = 0> (v_weighted, axis1)

    c_shape = Shape (comment_id)
    c_width = Gather (c_shape, one)
    c_at = Range (zero, c_width, one)
    c_row = Unsqueeze (c_at, axis0)
    c_end = Unsqueeze (comment_length, axis1)
    c_mask = Less (c_row, c_end)
    c_mask_f = Cast <to = 1> (c_mask)
    c_next = Add (c_row, one)
    c_place = Cast <to = 1> (c_next)
    c_weight2 = Mul (c_mask_f, c_place)
    c_weight = Unsqueeze (c_weight2, axis2)
    c_half = Mul (comment_title, half)
    c_quarter = Mul (comment_text, quarter)
    c_text = Add (c_half, c_quarter)
    c_content = Add (comment_id, c_text)
    c_weighted = Mul (c_content, c_weight)
    c_sum = ReduceSum <keepdims = 0> (c_weighted, axis1)

    v_of_v = MatMul (v_sum, w_video)
    v_of_c = MatMul (c_sum, w_cross)
    v_both = Add (v_of_v, v_of_c)
    v_raw = Add (v_both, bias)
    v_length = ReduceL2 <keepdims = 1> (v_raw, axis1)
    v_unit = Div (v_raw, v_length)
    video_preference = Div (v_unit, tau)

    c_of_c = MatMul (c_sum, w_comment)
    c_asked = Add (c_of_c, query)
    c_raw = Add (c_asked, bias)
    c_length = ReduceL2 <keepdims = 1> (c_raw, axis1)
    c_unit = Div (c_raw, c_length)
    comment_preference = Div (c_unit, tau)
}
"""


@dataclass(frozen=True)
class Model:
    """The parts of a bundle, as the tests made them up."""

    arrays: dict[str, np.ndarray]
    video_ids: list[str]
    comment_ids: list[str]
    weights: dict[str, np.ndarray]
    window: int

    @property
    def dim(self) -> int:
        return int(self.arrays["video_vectors"].shape[1])

    @cached_property
    def exact(self) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float64) for name, array in self.arrays.items()}

    def encoder(self) -> bytes:
        graph = onnx.parser.parse_model(_GRAPH)
        graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.weights.items())
        onnx.checker.check_model(graph)
        return bytes(graph.SerializeToString())

    def write(self, directory: Path, **changes: Any) -> Bundle:
        parts: dict[str, Any] = {
            "version": "20250101T000000Z-test",
            "model": {"dim": self.dim, "temperature": TAU, "window": self.window},
            "history": {"window": self.window, "drop": 2},
            "arrays": self.arrays,
            "ids": {"video_ids": self.video_ids, "comment_ids": self.comment_ids},
            "encoder": self.encoder(),
        }
        return write_bundle(directory, **(parts | changes))


def make_model(
    n_v: int, n_c: int, *, dim: int = 8, window: int = 6, seed: int = 0, names: Sequence[str] = (), repeat: int = 1
) -> Model:
    """Random tables. With `repeat` > 1, that many videos in a row share their vectors, so that scores are equal."""
    rng = np.random.default_rng(seed)

    def table(rows: int) -> np.ndarray:
        return rng.normal(size=(rows, dim)).astype(np.float32)

    ids, titles = table(n_v), table(n_v)
    same = np.arange(n_v) // repeat * repeat
    candidates = (ids + titles)[same]
    arrays = {
        "video_id_vectors": ids,
        "video_title_vectors": titles,
        "video_comment_vectors": table(n_v),
        "video_vectors": (candidates / np.linalg.norm(candidates, axis=1, keepdims=True)).astype(np.float32),
        "comment_vectors": table(n_c),
        "comment_video": rng.integers(0, n_v, n_c).astype(np.int32),
    }
    weights = {name: table(dim) for name in ("w_video", "w_cross", "w_comment")} | {"bias": table(1)[0]}
    video_ids = [*names, *(f"v{i}" for i in range(len(names), n_v))]
    return Model(arrays, video_ids, [f"c{i}" for i in range(n_c)], weights, window)


def brute_force(
    model: Model, request: Request, dead_videos: Collection[str] = (), dead_comments: Collection[str] = ()
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of every video and every comment that the user may get, one by one, in double precision."""
    a = model.exact
    video_at = {v: i for i, v in enumerate(model.video_ids)}
    comment_at = {c: i for i, c in enumerate(model.comment_ids)}
    nothing = np.zeros(model.dim)

    def row(name: str, index: int | None) -> np.ndarray:
        return nothing if index is None else a[name][index]

    videos = list(request.videos)[-model.window :]
    pairs = list(zip(request.comment_videos, request.comment_ids, strict=True))[-model.window :]
    v_sum, c_sum = nothing.copy(), nothing.copy()
    for place, v in enumerate(videos, 1):
        at = video_at.get(v)
        content = row("video_id_vectors", at) + 0.5 * row("video_title_vectors", at)
        v_sum += place * (content + 0.25 * row("video_comment_vectors", at))
    for place, (v, c) in enumerate(pairs, 1):
        at = video_at.get(v)
        content = row("video_id_vectors", at) + 0.5 * row("video_title_vectors", at)
        c_sum += place * (content + 0.25 * row("comment_vectors", comment_at.get(c)))
    weights = model.weights
    current = video_at.get(request.current_video) if request.current_video is not None else None
    query = row("video_id_vectors", current) + row("video_title_vectors", current)
    u_v = v_sum @ weights["w_video"] + c_sum @ weights["w_cross"] + weights["bias"]
    u_c = c_sum @ weights["w_comment"] + query + weights["bias"]

    barred = set(request.barred)
    gone = {*request.videos, *request.comment_videos, request.current_video, *dead_videos}
    video_scores = {
        v: _cosine(u_v, a["video_vectors"][i]) / TAU
        for v, i in video_at.items()
        if v not in gone and video_digest(v) not in barred
    }
    used = set(request.comment_ids)
    under = model.arrays["comment_video"].tolist()
    comment_scores = {
        c: _cosine(u_c, a["comment_vectors"][i]) / TAU
        for c, i in comment_at.items()
        if current is not None
        and request.current_video not in dead_videos
        and under[i] == current
        and c not in used
        and c not in dead_comments
    }
    return video_scores, comment_scores


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def assert_ranked(
    ids: list[str], scores: list[float], expected: dict[str, float], top: int, order: Sequence[str], tolerance: float
) -> None:
    """`ids` are the best `top` of `expected`, best first, ties by `order`; scores agree within `tolerance`."""
    assert len(ids) == len(scores) == len(set(ids)) == min(top, len(expected))
    for id_, score in zip(ids, scores, strict=True):
        assert abs(score - expected[id_]) <= tolerance, f"{id_} has {score}, not {expected[id_]}"
        assert score == round(score, 5)
    place = {id_: i for i, id_ in enumerate(order)}
    assert ids == [id_ for _, _, id_ in sorted((-s, place[i], i) for i, s in zip(ids, scores, strict=True))]
    left_out = max((score for id_, score in expected.items() if id_ not in set(ids)), default=-np.inf)
    assert not scores or left_out <= scores[-1] + tolerance
