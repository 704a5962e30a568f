"""`bundle.json`: what a bundle is, and a checksum of every other file in it."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

FORMAT_VERSION = 1
MANIFEST = "bundle.json"

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_FILE = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*")


class BundleError(ValueError):
    """A folder that is no bundle this version can serve. The message names the file and says what to do."""


class FileEntry(Struct, frozen=True):
    """A file of the bundle: its checksum in hex and its size."""

    sha256: str
    bytes: int


class Counts(Struct, frozen=True):
    """How many videos and comments the tables hold."""

    videos: int
    comments: int


class Manifest(Struct, frozen=True):
    """The content of `bundle.json`.

    `model` has at least `dim` (width of every vector) and `window` (longest history the encoder takes); `history` holds
    the fields of the history configuration that the model was trained with; `training` is free form.
    """

    format_version: int
    version: str
    created_ms: int
    model: dict[str, Any]
    history: dict[str, Any]
    counts: Counts
    files: dict[str, FileEntry]
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = {}

    @property
    def dim(self) -> int:
        return int(self.model["dim"])

    @property
    def window(self) -> int:
        return int(self.model["window"])


class _Format(Struct):
    format_version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """JSON for people as well: indented, one field per line.

    Raises:
        BundleError: a value that JSON can't hold.
    """
    try:
        data = msgspec.json.encode(manifest, enc_hook=_plain)
    except (TypeError, NotImplementedError) as error:
        raise BundleError(f"{MANIFEST}: {error}; give plain numbers, strings, lists and dicts") from None
    return msgspec.json.format(data, indent=2) + b"\n"


def _plain(value: Any) -> Any:
    """Numbers of NumPy and subclasses of `str` (PyTorch's version is one) as what they stand for."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"{value!r} is a {type(value).__name__}")


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read and check `bundle.json`; `where` names it in errors.

    Raises:
        BundleError: not JSON, another format version, a field missing or mistyped, a name that would leave the folder.
    """
    try:
        # The version first: a newer format may have other fields, and must be refused for its version alone.
        found = msgspec.json.decode(data, type=_Format).format_version
        if found != FORMAT_VERSION:
            advice = "update this installation" if found > FORMAT_VERSION else "export the model again"
            raise BundleError(f"{where}: bundle format {found}, but this version reads {FORMAT_VERSION}; {advice}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{where}: {error}; export the model again") from None
    check_version(manifest.version)
    for field in ("dim", "window"):
        value = manifest.model.get(field)
        if type(value) is not int or value < 1:
            raise BundleError(f"{where}: model.{field} must be a positive integer, not {value!r}; export again")
    if manifest.counts.videos < 1 or manifest.counts.comments < 0:
        raise BundleError(f"{where}: a bundle needs at least one video; train on a corpus that has some")
    for name in manifest.files:
        if not _FILE.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{where}: {name!r} can't be the name of a file in a bundle; export again")
    return manifest


def check_version(version: str) -> str:
    """Return `version` if it can name a bundle (and so a folder).

    Raises:
        BundleError: it can't.
    """
    if not _VERSION.fullmatch(version):
        raise BundleError(
            f"{version[:140]!r} can't name a bundle; use 1 to 128 letters, digits, dots, dashes and underscores, "
            "starting with a letter or a digit"
        )
    return version


def derive_version(created_ms: int, files: dict[str, FileEntry]) -> str:
    """A version that sorts by time and tells contents apart: `20250131T093000Z-1a2b3c4d`."""
    names = "\n".join(f"{name} {files[name].sha256}" for name in sorted(files))
    moment = datetime.fromtimestamp(created_ms / 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
