"""From a trained model to a bundle: the encoder as an ONNX graph, every vector as an array, and sample answers.

The bundle holds all videos and comments of the log's catalog, also those that training did not know: these have a zero
id embedding and the vector of their text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model_runtime.bundle import ID_LISTS, NEIGHBOURS, STEPS, Bundle, Sample, SampleRequest, Scored, write_bundle
from model_runtime.ids import text_digest
from model_runtime.live_section import LiveSection
from model_runtime.step_weights import StepWeights
from offline_train.batches import comment_vectors
from offline_train.cooccurrence import neighbours
from offline_train.corpus import Corpus, Split
from offline_train.distill import DistillConfig, Distilled, distill
from offline_train.finetuning import Finetuned
from offline_train.log import VIEW
from offline_train.reference import Reference, ReferenceRequest
from offline_train.sr import SRConfig, SREncoder
from offline_train.step_graphs import encoder_graph, step_graphs
from offline_train.step_weights import step_weights
from offline_train.text import TextVectors

SAMPLE_USERS = 8
_SAMPLE_ITEMS = 20


def export(
    finetuned: Finetuned,
    corpus: Corpus,
    split: Split,
    texts: TextVectors,
    directory: str | Path,
    *,
    student: Distilled | None = None,
    metrics: Mapping[str, Any] | None = None,
    version: str | None = None,
    created_ms: int | None = None,
) -> Bundle:
    """Write the bundle of a trained model to `directory`, which must not exist yet.

    `student` gives vectors to titles and comments that come later (`train_student`); without one they have none.

    `training` of its manifest says how the model came about; among it `split` and `valid_ms`, up to when it learned.

    Raises:
        BundleError: the model gives no valid bundle, or `directory` exists.
    """
    reference = Reference.of(finetuned, corpus)
    log = corpus.log
    best = finetuned.curve[finetuned.best_epoch]
    return write_bundle(
        directory,
        model=asdict(finetuned.model.config),
        history=msgspec.structs.asdict(corpus.config),
        arrays=arrays(finetuned, corpus) | _neighbours(corpus, split),
        ids={"video_ids": log.video_ids, "comment_ids": log.comment_ids},
        encoder=encoder_onnx(finetuned.model.encoder, finetuned.model.config),
        steps=steps_onnx(finetuned.model.encoder, finetuned.model.config),
        step_weights=compiled_weights(finetuned.model.encoder, finetuned.model.config),
        version=version,
        created_ms=created_ms,
        sample=sample(reference, corpus, split),
        student=student.student if student else None,
        comment_student=student.comments if student else None,
        metrics={"validation": {"video_ndcg@5": best.video_ndcg5, "comment_ndcg@5": best.comment_ndcg5}}
        | ({"student": student.metrics} if student else {})
        | dict(metrics or {}),
        training={
            "split": split.name,
            "valid_ms": split.valid_ms,
            "test_ms": split.test_ms,
            "text": texts.method,
            "best_epoch": finetuned.best_epoch,
            "start": finetuned.start,
            "torch": str(torch.__version__),  # a subclass of str that JSON encoders refuse
            **asdict(finetuned.config),
        },
    )


def with_metrics(
    bundle: Bundle, directory: str | Path, metrics: Mapping[str, Any], live: LiveSection | None = None
) -> Bundle:
    """The same bundle, of the same version, in another folder, with more metrics and, if given, with live signals.

    Metrics of the deployed form can be known, and `f` be trained, only once there is a bundle to measure.
    """
    manifest = bundle.manifest
    return write_bundle(
        directory,
        model=manifest.model,
        history=manifest.history,
        arrays=bundle.arrays,
        ids={name: getattr(bundle, name).tolist() for name in ID_LISTS},
        encoder=bundle.encoder_path.read_bytes(),
        steps={name: bundle.step_path(name).read_bytes() for name in STEPS} if bundle.incremental else None,
        step_weights=bundle.step_weights,
        version=bundle.version,
        sample=bundle.sample,
        student=bundle.student,
        comment_student=bundle.comment_student,
        live=live or bundle.live,
        metrics=manifest.metrics | dict(metrics),
        training=manifest.training,
        created_ms=manifest.created_ms,
    )


def encoder_onnx(encoder: SREncoder, config: SRConfig) -> bytes:
    """The encoder's graph, as bytes: any number of users, any padded lengths from 1 up to the window."""
    return encoder_graph(_weights(encoder), heads=config.heads, temperature=config.temperature)


def train_student(
    finetuned: Finetuned,
    corpus: Corpus,
    split: Split,
    config: DistillConfig | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Distilled:
    """The student of a trained model's text vectors A t(x); two of them, if comments have a map of their own.

    It learns from the titles and comments of the training period only, so that those after it show what it can do.
    """
    model, tables = finetuned.model, finetuned.tables
    log = corpus.log
    videos = np.flatnonzero(log.first_seen_video < split.valid_ms)
    comments = np.flatnonzero(log.first_seen_comment < split.valid_ms)
    texts = [*(log.video_titles[i] for i in videos), *(log.comment_texts[i] for i in comments)]
    # every text as a title, and as a comment
    as_comments, as_titles = tables.crossed or (tables.titles, tables.comments)
    at = torch.from_numpy(videos), torch.from_numpy(comments)
    with torch.inference_mode():
        titles = _numpy(model.text(torch.cat((tables.titles[at[0]], as_titles[at[1]]))))
        own = _numpy(model.comment_map(torch.cat((as_comments[at[0]], tables.comments[at[1]]))))
    distilled = distill(texts, titles, config, report)
    if not model.apart:
        return distilled
    other = distill(texts, own, config, report)
    seconds = distilled.metrics["seconds"] + other.metrics["seconds"]
    metrics = distilled.metrics | {f"comment_{name}": value for name, value in other.metrics.items()}
    del metrics["comment_seconds"]
    return Distilled(distilled.student, metrics | {"seconds": seconds}, other.student)


def steps_onnx(encoder: SREncoder, config: SRConfig) -> dict[str, bytes]:
    """The graphs of incremental encoding, by name (`offline_train.step_graphs`)."""
    return step_graphs(_weights(encoder), heads=config.heads, temperature=config.temperature)


def _weights(encoder: SREncoder) -> dict[str, np.ndarray]:
    return {name: _numpy(value) for name, value in encoder.state_dict().items()}


def compiled_weights(encoder: SREncoder, config: SRConfig) -> StepWeights:
    """What the compiled steps need of the encoder (`offline_train.step_weights`)."""
    return step_weights(_weights(encoder), heads=config.heads, temperature=config.temperature)


@torch.inference_mode()
def arrays(finetuned: Finetuned, corpus: Corpus) -> dict[str, np.ndarray]:
    """The tables of a bundle by name: float32 [n_v or n_c, d], int32 [n_c] `comment_video`, uint32 digests of texts."""
    model, tables, log = finetuned.model, finetuned.tables, corpus.log
    ids, titles = model.id_vectors(), model.text(tables.titles)
    return {
        "video_id_vectors": _numpy(ids),
        "video_title_vectors": _numpy(titles),
        "video_comment_vectors": _numpy(comment_vectors(model, tables, tables.popular)),
        "video_vectors": _numpy(F.normalize(ids + titles, dim=-1)),
        "comment_vectors": _numpy(model.comment_map(tables.comments[:-1])),
        "comment_video": log.comment_video.astype(np.int32),
        "video_text_digests": np.array(list(map(text_digest, log.video_titles)), np.uint32),
        "comment_text_digests": np.array(list(map(text_digest, log.comment_texts)), np.uint32),
    }


def _neighbours(corpus: Corpus, split: Split) -> dict[str, np.ndarray]:
    training = corpus.samples.take(split.train)
    views = training.take(training.kind == VIEW)
    found = neighbours(views.user, views.target_video, len(corpus.log.video_ids))
    return dict(zip(NEIGHBOURS, (found.rows, found.weights), strict=True))


def sample(reference: Reference, corpus: Corpus, split: Split) -> list[Sample]:
    """What the PyTorch model recommends to some users of the last part, so that a loader can compare itself."""
    log, samples = corpus.log, corpus.samples
    rows = split.test if len(split.test) else split.train
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE_USERS).astype(int))]
    requests = [ReferenceRequest()]
    for i in chosen:
        videos = corpus.videos[samples.video_start[i] : samples.video_end[i]]
        records = slice(samples.comment_start[i], samples.comment_end[i])
        requests.append(
            ReferenceRequest(
                videos=[log.video_ids[v] for v in videos],
                comment_videos=[log.video_ids[v] for v in corpus.comment_videos[records]],
                comment_ids=[log.comment_ids[c] for c in corpus.comments[records]],
                current_video=log.video_ids[samples.target_video[i]],
            )
        )
    rankings = reference.rank(requests, top_videos=_SAMPLE_ITEMS, top_comments=_SAMPLE_ITEMS)
    return [
        Sample(
            SampleRequest(
                request.videos,
                list(zip(request.comment_videos, request.comment_ids, strict=True)),
                request.current_video,
            ),
            [Scored(*item) for item in ranking.videos],
            [Scored(*item) for item in ranking.comments],
        )
        for request, ranking in zip(requests, rankings, strict=True)
    ]


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
