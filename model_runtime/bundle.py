"""A bundle: everything that serves one version of a model, in one folder, without pickle.

`bundle.json` describes it, `encoder.onnx` turns histories into preferences, `.npy` tables hold the vectors
(memory-mapped, so the processes of a machine share them), `.json` lists hold the ids in the order of the tables. Graphs
and a `steps.npz` for incremental encoding make an event cost what it changes; bundles without them are served too. A
`student.npz`, where there is one, gives vectors to texts that come later (a `comment_student.npz` to comments, if these
have a text map of their own); a `live.npz` adds live signals to scores.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from model_runtime.checks import check_finite, check_normalised
from model_runtime.files import appearing_folder, sha256_of, write_synced
from model_runtime.live_section import LiveSection
from model_runtime.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    BundleError,
    Counts,
    FileEntry,
    Manifest,
    check_version,
    decode_manifest,
    derive_version,
    encode_manifest,
)
from model_runtime.related import Neighbours
from model_runtime.step_weights import StepWeights
from model_runtime.text import Student

ENCODER = "encoder.onnx"
#: the graphs of incremental encoding, `<name>.onnx`; a bundle without them is served with full encodings
STEPS = ("fill", "video_step", "comment_step", "query")
SAMPLE = "sample.json"
#: the same steps' weights for compiled functions; may be left out
STEP_WEIGHTS = "steps.npz"
STUDENT = "student.npz"
COMMENT_STUDENT = "comment_student.npz"
LIVE = "live.npz"
#: float32 tables, one row of `dim` numbers per video, and per comment
VIDEO_TABLES = ("video_id_vectors", "video_title_vectors", "video_comment_vectors", "video_vectors")
COMMENT_TABLE = "comment_vectors"
#: int32: for each comment the index of its video
COMMENT_VIDEO = "comment_video"
ARRAYS = (*VIDEO_TABLES, COMMENT_TABLE, COMMENT_VIDEO)
#: uint32, may be left out: digests of the texts behind the rows of videos, and of comments
TEXT_DIGESTS = ("video_text_digests", "comment_text_digests")
#: int32 and float32 [n_v, K], may be left out: `model_runtime.related`
NEIGHBOURS = ("video_neighbours", "video_neighbour_weights")
ID_LISTS = ("video_ids", "comment_ids")


class SampleRequest(Struct, frozen=True):
    """A user of the sample. `comments` are pairs of video id and comment id, oldest first."""

    videos: list[str]
    comments: list[tuple[str, str]]
    current_video: str | None = None


class Scored(Struct, frozen=True):
    """An item with the score that the trainer's model gave it."""

    id: str
    score: float


class Sample(Struct, frozen=True):
    """What the trainer's model recommends to a user, best first: a loader compares itself with it."""

    request: SampleRequest
    videos: list[Scored]
    comments: list[Scored]


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle. Tables are read-only and memory-mapped.

    `video_ids` and `comment_ids` are arrays of `str` objects. `sha256` is that of `bundle.json`, which in turn covers
    every other file, so it stands for the whole content.
    """

    path: Path
    manifest: Manifest
    sha256: str
    video_ids: NDArray[np.object_]  # [n_v]
    comment_ids: NDArray[np.object_]  # [n_c]
    video_id_vectors: NDArray[np.float32]  # [n_v, d] g·id(v)
    video_title_vectors: NDArray[np.float32]  # [n_v, d] A t(title)
    video_comment_vectors: NDArray[np.float32]  # [n_v, d] A t(popular comment)
    video_vectors: NDArray[np.float32]  # [n_v, d] L2-normalised id + title: the candidates
    comment_vectors: NDArray[np.float32]  # [n_c, d] A t(comment)
    comment_video: NDArray[np.int32]  # [n_c]
    sample: list[Sample]
    student: Student | None = None  #: None: what training did not know has no vectors
    comment_student: Student | None = None  #: of comments' texts; None: those are the student's as well
    video_text_digests: NDArray[np.uint32] | None = None  # [n_v], tell a title that is not the one trained with
    comment_text_digests: NDArray[np.uint32] | None = None  # [n_c]
    live: LiveSection | None = None  #: None: scores are the SR's alone
    neighbours: Neighbours | None = None  #: None: nothing is related to anything
    step_weights: StepWeights | None = None  #: None: steps are taken by the graphs alone

    def __repr__(self) -> str:
        """What it is, and not its tables."""
        counts = f"{len(self.video_ids):,} videos, {len(self.comment_ids):,} comments"
        return f"<Bundle {self.version} in {self.path}: {counts}>"

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def window(self) -> int:
        return self.manifest.window

    @property
    def encoder_path(self) -> Path:
        return self.path / ENCODER

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as `write_bundle` takes them."""
        given = {name: getattr(self, name) for name in (*ARRAYS, *TEXT_DIGESTS)}
        if self.neighbours is not None:
            given |= dict(zip(NEIGHBOURS, (self.neighbours.rows, self.neighbours.weights), strict=True))
        return {name: array for name, array in given.items() if array is not None}

    @property
    def incremental(self) -> bool:
        """Whether it has the graphs of incremental encoding."""
        return all(f"{name}.onnx" in self.manifest.files for name in STEPS)

    def step_path(self, name: str) -> Path:
        return self.path / f"{name}.onnx"

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle and verify all of it: format, checksums, shapes, ids, finite vectors.

        Raises:
            BundleError: whatever is wrong with it.
        """
        path = Path(path)
        try:
            manifest_bytes = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(f"{path / MANIFEST}: {error.strerror}; {path} is not a bundle's folder") from None
        manifest = decode_manifest(manifest_bytes, str(path / MANIFEST))
        _check_files(path, manifest)
        n_v, n_c, dim = manifest.counts.videos, manifest.counts.comments, manifest.dim
        tables = {name: _load(path, name, (n_v, dim), np.float32) for name in VIDEO_TABLES}
        comments = _load(path, COMMENT_TABLE, (n_c, dim), np.float32)
        for name, table in [*tables.items(), (COMMENT_TABLE, comments)]:
            check_finite(path / f"{name}.npy", table)
        check_normalised(path / "video_vectors.npy", tables["video_vectors"])
        comment_video = _load(path, COMMENT_VIDEO, (n_c,), np.int32)
        if n_c and (comment_video.min() < 0 or comment_video.max() >= n_v):
            raise BundleError(f"{path / COMMENT_VIDEO}.npy: a video index is not in 0..{n_v - 1}; export again")
        return cls(
            path=path,
            manifest=manifest,
            sha256=hashlib.sha256(manifest_bytes).hexdigest(),
            video_ids=_load_ids(path, "video_ids", n_v),
            comment_ids=_load_ids(path, "comment_ids", n_c),
            comment_vectors=comments,
            comment_video=comment_video,
            sample=_decode(path / SAMPLE, list[Sample]) if SAMPLE in manifest.files else [],
            student=Student.load(path / STUDENT, dim) if STUDENT in manifest.files else None,
            comment_student=Student.load(path / COMMENT_STUDENT, dim) if COMMENT_STUDENT in manifest.files else None,
            live=LiveSection.load(path / LIVE, {"video": n_v, "comment": n_c}) if LIVE in manifest.files else None,
            neighbours=_load_neighbours(path, n_v) if f"{NEIGHBOURS[0]}.npy" in manifest.files else None,
            step_weights=(
                StepWeights.load(path / STEP_WEIGHTS, dim=dim, window=manifest.window)
                if STEP_WEIGHTS in manifest.files
                else None
            ),
            **tables,
            **{
                name: _load(path, name, (count,), np.uint32)
                for name, count in zip(TEXT_DIGESTS, (n_v, n_c), strict=True)
                if f"{name}.npy" in manifest.files
            },
        )


def write_bundle(
    directory: str | Path,
    *,
    model: Mapping[str, Any],
    history: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    ids: Mapping[str, Sequence[str]],
    encoder: bytes,
    steps: Mapping[str, bytes] | None = None,
    step_weights: StepWeights | None = None,
    version: str | None = None,
    sample: Sequence[Sample] | Sequence[Mapping[str, Any]] | None = None,
    student: Student | None = None,
    comment_student: Student | None = None,
    live: LiveSection | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    created_ms: int | None = None,
) -> Bundle:
    """Write a bundle to `directory`, which must not exist yet, verify it, and return it opened.

    The folder appears with its last byte in place: until then it is a hidden sibling. `arrays` has the names of
    `ARRAYS` and may have those of `TEXT_DIGESTS` and `NEIGHBOURS`, `ids` has those of `ID_LISTS`, `steps` those of
    `STEPS` or none, and `step_weights` belong to them. `version` is derived from the time and the content unless given.

    Raises:
        BundleError: the parts don't make a valid bundle, or `directory` exists.
    """
    optional = {*TEXT_DIGESTS, *NEIGHBOURS}
    for kind, wanted, given in (("arrays", ARRAYS, set(arrays) - optional), ("ids", ID_LISTS, set(ids))):
        if set(wanted) != given:
            raise BundleError(f"{kind} must be exactly {', '.join(wanted)}; given: {', '.join(sorted(given))}")
    directory = Path(directory)
    created_ms = int(time.time() * 1000) if created_ms is None else created_ms
    try:
        with appearing_folder(directory) as folder:
            files: dict[str, FileEntry] = {}

            def put(name: str, data: bytes) -> None:
                write_synced(folder / name, data)
                files[name] = FileEntry(sha256_of(folder / name), len(data))

            for name in arrays:
                put(f"{name}.npy", _npy(arrays[name], _dtype(name)))
            for name in ID_LISTS:
                put(f"{name}.json", msgspec.json.encode(list(ids[name])))
            put(ENCODER, encoder)
            for name, graph in (steps or {}).items():
                put(f"{name}.onnx", graph)
            if step_weights is not None:
                put(STEP_WEIGHTS, step_weights.to_bytes())
            if sample is not None:
                put(SAMPLE, msgspec.json.encode(list(sample)))
            if student is not None:
                put(STUDENT, student.to_bytes())
            if comment_student is not None:
                put(COMMENT_STUDENT, comment_student.to_bytes())
            if live is not None:
                put(LIVE, live.to_bytes())
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                version=derive_version(created_ms, files) if version is None else check_version(version),
                created_ms=created_ms,
                model=dict(model),
                history=dict(history),
                counts=Counts(len(ids["video_ids"]), len(ids["comment_ids"])),
                files=files,
                metrics=dict(metrics or {}),
                training=dict(training or {}),
            )
            write_synced(folder / MANIFEST, encode_manifest(manifest))
            Bundle.open(folder)
    except FileExistsError:
        raise BundleError(f"{directory}: exists already; choose another folder") from None
    return Bundle.open(directory)


def _dtype(name: str) -> type:
    return np.int32 if name in (COMMENT_VIDEO, NEIGHBOURS[0]) else np.uint32 if name in TEXT_DIGESTS else np.float32


def _npy(array: NDArray[Any], dtype: type) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype=dtype), allow_pickle=False)
    return buffer.getvalue()


def _check_files(path: Path, manifest: Manifest) -> None:
    required = [f"{name}.npy" for name in ARRAYS] + [f"{name}.json" for name in ID_LISTS] + [ENCODER]
    for name in required:
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST}: lists no {name}; export the model again")
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{file}: missing; copy the bundle again")
        size = file.stat().st_size
        if size != entry.bytes:
            raise BundleError(f"{file}: {size} bytes, but {MANIFEST} says {entry.bytes}; copy the bundle again")
        if sha256_of(file) != entry.sha256:
            raise BundleError(f"{file}: its SHA-256 is not the one in {MANIFEST}; copy the bundle again")


def _load_neighbours(path: Path, videos: int) -> Neighbours:
    rows, weights = (
        _load(path, name, (videos, None), dtype) for name, dtype in zip(NEIGHBOURS, (np.int32, np.float32), strict=True)
    )
    found = Neighbours(rows, weights)
    found.check(path)
    return found


def _load(path: Path, name: str, shape: tuple[int | None, ...], dtype: type) -> NDArray[Any]:
    """A table; None in `shape`: any size."""
    file = path / f"{name}.npy"
    # An empty file can't be mapped.
    mode: Any = "r" if all(shape) else None
    try:
        array = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BundleError(f"{file}: {error}; export the model again") from None
    if array.ndim == len(shape):
        shape = tuple(size if wanted is None else wanted for size, wanted in zip(array.shape, shape, strict=True))
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise BundleError(
            f"{file}: {array.dtype} {list(array.shape)}, but {MANIFEST} asks for {np.dtype(dtype)} {list(shape)} "
            "in C order; export the model again"
        )
    # A plain view: np.memmap's bookkeeping costs microseconds at every slice.
    return np.asarray(array)


def _decode(file: Path, type_: Any) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: {error}; export the model again") from None


def _load_ids(path: Path, name: str, count: int) -> NDArray[np.object_]:
    file = path / f"{name}.json"
    ids = _decode(file, list[str])
    if len(ids) != count:
        raise BundleError(f"{file}: {len(ids)} ids, but {MANIFEST} says {count}; export the model again")
    if "" in ids:
        raise BundleError(f"{file}: an id is empty; export the model again")
    if len(set(ids)) != count:
        raise BundleError(f"{file}: ids repeat; an id must name one item, export the model again")
    # An object array is not tracked by the garbage collector, a list of a million strings is.
    return np.array(ids, dtype=object)
