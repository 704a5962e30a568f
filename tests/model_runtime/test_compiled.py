"""The parts of compiled steps, and their weights in a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from support.random_sr import write_random_sr

from model_runtime.bundle import STEP_WEIGHTS, Bundle
from model_runtime.graph_steps import GraphSteps
from model_runtime.manifest import BundleError
from model_runtime.scorer import Request, Scorer
from model_runtime.step_weights import StepWeights

kernel = pytest.importorskip("model_runtime.step_kernel", reason="Numba is not installed", exc_type=ImportError)

DIM, WINDOW = 16, 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("bundle") / "b"
    return write_random_sr(folder, videos=9, comments=20, window=WINDOW, drop=5, dim=DIM)


@pytest.mark.parametrize(("n", "k", "m"), [(1, 4, 8), (4, 8, 3), (7, 6, 16), (9, 5, 1), (0, 4, 4)])
def test_products_of_any_shape_are_those_of_numpy(n: int, k: int, m: int) -> None:
    rng = np.random.default_rng(n)
    rows, weights = (rng.normal(size=shape).astype(np.float32) for shape in ((n, k), (k, m)))
    out = np.ones((n, m), np.float32)
    kernel.add_product(out, rows, weights)
    np.testing.assert_allclose(out, 1 + rows @ weights, rtol=0, atol=1e-5)


def test_gelu_is_exact_to_float32_at_any_value() -> None:
    x = np.concatenate((np.linspace(-12, 12, 4001), [-1e30, -1e-30, 0, 1e30])).astype(np.float32)[None]
    wanted = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x[0].astype(float)]
    kernel.gelu(x)
    np.testing.assert_allclose(x[0], wanted, rtol=1e-6, atol=1e-6)


def test_weights_survive_their_file(bundle: Bundle) -> None:
    assert bundle.step_weights is not None
    again = StepWeights.load(bundle.path / STEP_WEIGHTS, dim=DIM, window=WINDOW)
    assert again.to_bytes() == bundle.step_weights.to_bytes() == (bundle.path / STEP_WEIGHTS).read_bytes()


Parts = dict[str, np.ndarray]
DAMAGED: dict[str, tuple[Callable[[Parts], object], int, str]] = {
    "missing": (lambda parts: parts.pop("video_1_up"), 2, "differ from what is needed by video_1_up"),
    "unknown": (lambda parts: parts.update(more=parts["mix"]), 2, "differ from what is needed by more"),
    "shape": (lambda parts: parts.update(mix=parts["mix"].T), 2, r"mix is float32 \[16, 32\], not float32 \[32, 16\]"),
    "type": (lambda parts: parts.update(mix=parts["mix"].astype(float)), 2, r"mix is float64 \[32, 16\], not float32"),
    "not finite": (lambda parts: parts.update(mix=parts["mix"] * np.nan), 2, "a number in mix is not finite"),
    "heads": (lambda parts: None, 3, "3 heads don't divide d = 16"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_weights_that_do_not_fit_are_refused_with_the_reason(name: str, bundle: Bundle, tmp_path: Path) -> None:
    damage, heads, message = DAMAGED[name]
    assert bundle.step_weights is not None
    parts: Mapping[str, np.ndarray] = dict(bundle.step_weights.parts)
    damage(parts)  # type: ignore[arg-type]
    file = tmp_path / "steps.npz"
    file.write_bytes(StepWeights(parts, heads).to_bytes())
    with pytest.raises(BundleError, match=f"steps.npz: .*{message}.*export the model again"):
        StepWeights.load(file, dim=DIM, window=WINDOW)


def test_a_file_that_is_cut_off_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "steps.npz"
    file.write_bytes((bundle.path / STEP_WEIGHTS).read_bytes()[:-200])
    with pytest.raises(BundleError, match="export the model again"):
        StepWeights.load(file, dim=DIM, window=WINDOW)


def test_where_numba_is_missing_graphs_take_the_steps(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_runtime.sessions.find_spec", lambda name: None)
    scorer = Scorer(bundle)
    assert isinstance(scorer.sessions._steps, GraphSteps)
    monkeypatch.undo()
    compiled = Scorer(bundle)
    compiled.sessions.wait()
    compiled.score([Request()])
    assert not isinstance(compiled.sessions._steps, GraphSteps)
    for videos in (["v1"], ["v1", "v2"]):
        one, other = (each.score([Request(videos, user_id="u")])[0] for each in (scorer, compiled))
        assert one.video_ids == other.video_ids
        np.testing.assert_allclose(one.video_scores, other.video_scores, rtol=0, atol=1e-4)
