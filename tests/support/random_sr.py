"""An SR model with random weights, large enough for every part of it to show in the scores, as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from model_runtime.bundle import Bundle, write_bundle


def random_encoder(*, window: int, dim: int, feedforward: int, seed: int = 0) -> Any:
    """A `SREncoder` with random weights, and its configuration. PyTorch is imported here and not before."""
    import torch

    from offline_train.sr import SR, SRConfig

    torch.manual_seed(seed)
    config = SRConfig(videos=1, dim=dim, text_dim=dim, window=window, feedforward=feedforward)
    encoder = SR(config).encoder.eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim():
                parameter.add_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5 / 2)
        encoder.video_profile.fill_(1.5)
        encoder.comment_profile.fill_(0.5)
        encoder.video_half_life.fill_(1.5)
        encoder.comment_half_life.fill_(3.0)
    return encoder, config


def write_random_sr(
    folder: Path,
    *,
    videos: int,
    comments: int,
    window: int,
    drop: int,
    dim: int = 16,
    feedforward: int = 32,
    seed: int = 0,
) -> Bundle:
    """Vectors have length about 1, as trained ones do; comment i is under video i % videos."""
    encoder, config = random_encoder(window=window, dim=dim, feedforward=feedforward, seed=seed)
    from offline_train.export import compiled_weights, encoder_onnx, steps_onnx

    rng = np.random.default_rng(seed)

    def table(rows: int) -> np.ndarray:
        return (rng.normal(size=(rows, dim)) / np.sqrt(dim)).astype(np.float32)

    ids, titles = table(videos), table(videos)
    both = ids + titles
    return write_bundle(
        folder,
        model={"dim": dim, "window": window},
        history={"window": window, "drop": drop},
        arrays={
            "video_id_vectors": ids,
            "video_title_vectors": titles,
            "video_comment_vectors": table(videos),
            "video_vectors": both / np.linalg.norm(both, axis=1, keepdims=True),
            "comment_vectors": table(comments),
            "comment_video": np.arange(comments, dtype=np.int32) % videos,
            "video_neighbours": rng.integers(-1, videos, (videos, 5)).astype(np.int32),
            "video_neighbour_weights": rng.random((videos, 5)).astype(np.float32),
        },
        ids={
            "video_ids": [f"v{i}" for i in range(videos)],
            "comment_ids": [f"c{i}" for i in range(comments)],
        },
        encoder=encoder_onnx(encoder, config),
        steps=steps_onnx(encoder, config),
        step_weights=compiled_weights(encoder, config),
    )
