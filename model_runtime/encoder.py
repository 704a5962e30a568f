"""The SR model's graph, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model_runtime.bundle import STEPS, Bundle
from model_runtime.manifest import BundleError

FLOAT_INPUTS = ("video_id", "video_title", "video_comment", "comment_id", "comment_title", "comment_text", "query")
LENGTH_INPUTS = ("video_length", "comment_length")
OUTPUTS = ("video_preference", "comment_preference")


class Encoder:
    """From histories to preferences: `[B, V, d]`, `[B, C, d]` and lengths in, two times `[B, d]` out.

    Preferences are L2-normalised and divided by the temperature, so their dot product with an L2-normalised item is
    the score.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Load the graph and check its inputs and outputs.

        Raises:
            BundleError: no valid graph, or one with other inputs or outputs.
        """
        file = bundle.encoder_path
        self._session = _open(file, threads)
        wanted = dict.fromkeys(FLOAT_INPUTS, "tensor(float)") | dict.fromkeys(LENGTH_INPUTS, "tensor(int64)")
        given = {node.name: node.type for node in self._session.get_inputs()}
        if wanted != given:
            raise BundleError(f"{file}: its inputs are {given}, but {wanted} are needed; export the model again")
        outputs = {node.name for node in self._session.get_outputs()}
        if not outputs.issuperset(OUTPUTS):
            raise BundleError(f"{file}: its outputs are {sorted(outputs)}, not {list(OUTPUTS)}; export again")

    def __call__(self, inputs: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Video and comment preferences, [B, d] each."""
        video, comment = self._session.run(list(OUTPUTS), inputs)
        return video, comment


class StepGraphs:
    """The graphs of incremental encoding (`model_runtime.sessions`): `fill`, `video_step`, `comment_step`, `query`."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Load the graphs.

        Raises:
            BundleError: one is not valid, or they don't fit together.
        """
        self._sessions = {name: _open(bundle.step_path(name), threads) for name in STEPS}
        self._outputs = {name: [node.name for node in run.get_outputs()] for name, run in self._sessions.items()}
        fill = self._outputs["fill"]
        shapes = {node.name: node.shape for node in self._sessions["fill"].get_outputs()}
        if "video_log" not in shapes or not {*OUTPUTS, "video_state", "comment_cross", "pooled", "video_recent"} <= set(
            fill
        ):
            raise BundleError(f"{bundle.step_path('fill')}: its outputs are {fill}; export the model again")
        self.heads = int(shapes["video_log"][1])
        self.layers = sum(name.removeprefix("video_").isdigit() for name in fill)
        #: which of a graph's inputs are read from what is kept
        self.kept = {
            name: [node.name for node in run.get_inputs() if node.name in shapes]
            for name, run in self._sessions.items()
        }

    def run(self, name: str, inputs: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
        """The outputs of a graph, by name."""
        outputs = self._outputs[name]
        return dict(zip(outputs, self._sessions[name].run(outputs, inputs), strict=True))


def _open(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Waiting threads must leave the cores to the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Each batch has its own lengths; a memory plan per combination of lengths would only pile up.
    options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types, some of them plain Exception
        raise BundleError(f"{file}: {error}; export the model again") from None


def there(length: NDArray[Any], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in [B * width] a position is there, [N], and for each of [B * width] which of these it is (any if none)."""
    there = (np.arange(width) < length[:, None]).ravel()
    rows = np.flatnonzero(there)
    if len(rows) == 0:
        return np.zeros(1, np.int64), np.zeros(len(there), np.int64)
    return rows, np.maximum(np.cumsum(there) - 1, 0)
