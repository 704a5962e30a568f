"""The small function `f`: its formula, and what a loader refuses."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from model_runtime.blend import Blend, Blender
from model_runtime.manifest import BundleError

LINEAR = Blend(["sr", "age"], mean=[1.0, 2.0], scale=[2.0, 4.0], linear=[0.5, -1.0])
HIDDEN = msgspec.structs.replace(
    LINEAR, hidden=[[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], bias=[0.1, 0.2, 0.3], out=[1.0, 2.0, -1.0]
)


@pytest.mark.parametrize("blend", [LINEAR, HIDDEN], ids=["linear", "hidden"])
def test_it_is_the_formula(blend: Blend) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    standard = (x - np.array(blend.mean)) / np.array(blend.scale)
    expected = standard @ np.array(blend.linear)
    if blend.bias:
        expected = expected + np.tanh(standard @ np.array(blend.hidden) + np.array(blend.bias)) @ np.array(blend.out)
    np.testing.assert_allclose(Blender(blend)(x), expected, atol=1e-5)


def test_it_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(HIDDEN), type=Blend) == HIDDEN


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"features": ["sr", "moon"]}, "unknown feature 'moon'"),
        ({"linear": [1.0]}, "lengths"),
        ({"out": [1.0]}, "lengths"),
        ({"mean": [float("nan"), 0.0]}, "not finite"),
        ({"scale": [1.0, 0.0]}, "not positive"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(wrong: dict[str, object], says: str) -> None:
    HIDDEN.check("blend", ("sr", "age"))
    with pytest.raises(BundleError, match=says):
        msgspec.structs.replace(HIDDEN, **wrong).check("blend", ("sr", "age"))
