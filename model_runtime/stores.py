"""Where files are kept that appear whole or not at all: a folder of this machine, or a prefix of an object store.

    store = open_store("s3://bucket/registry")        # anything fsspec knows; or a path
    store.put("channels/stable.json", b"{}")

In a folder a file is written beside its place, confirmed by the disk, and renamed; an object store shows an object only
once its upload is complete.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from model_runtime.files import UNFINISHED, replace_file


class StoreError(OSError):
    """A store that does not answer, or refuses; the message says what to check."""


class Store(Protocol):
    """Files by name. Names are relative and have forward slashes."""

    uri: str

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, over one that is there. Raises StoreError."""

    def get(self, name: str) -> bytes:
        """The content. Raises FileNotFoundError, StoreError."""

    def names(self, prefix: str = "") -> list[str]:
        """The names of all files below a folder, sorted; none if there is no such folder. Raises StoreError."""

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if it is gone already. Raises StoreError."""

    def uri_of(self, name: str) -> str:
        """The address that `open_store` opens as a store of its own."""


def open_store(uri: str | Path) -> Store:
    """The store at a path, a `file://` address, or any address that fsspec knows.

    Raises:
        StoreError: the address is of a kind that needs a package which is not installed.
    """
    path = local_path(uri)
    return FolderStore(path) if path is not None else ObjectStore(str(uri))


def local_path(uri: str | Path) -> Path | None:
    """The path that an address stands for, None for an address of an object store."""
    text = str(uri)
    if "://" not in text:
        return Path(text)
    parts = urlsplit(text)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


class FolderStore:
    """A folder of this machine; made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = root.absolute().as_uri()

    def put(self, name: str, data: bytes) -> None:
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
        except OSError as error:
            raise StoreError(f"{path} can't be written ({error.strerror or error}); {_advice(error)}") from error

    def get(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.root / name} can't be read ({error.strerror or error})") from error

    def names(self, prefix: str = "") -> list[str]:
        folder = self.root / prefix
        found = []
        for at, _, files in os.walk(folder):
            relative = Path(at).relative_to(self.root)
            found += [(relative / name).as_posix() for name in files if not name.startswith(UNFINISHED)]
        return sorted(found)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def uri_of(self, name: str) -> str:
        return (self.root / name).absolute().as_uri()

    def sweep(self) -> int:
        """Remove what killed writers left half written; returns how many files. Only where nobody else writes."""
        left = [path for path in self.root.rglob(f"{UNFINISHED}*") if path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


class ObjectStore:
    """A prefix of whatever fsspec reaches: `s3://`, `gs://`, `abfs://`, ... Credentials are fsspec's business."""

    def __init__(self, uri: str, **options: Any) -> None:
        import fsspec

        self.uri = uri.rstrip("/")
        try:
            self._fs, root = fsspec.core.url_to_fs(self.uri, **options)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{uri} can't be opened: {error}") from None
        self._root = root.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        path = f"{self._root}/{name}"
        try:
            # Object stores have no folders; file systems behind fsspec (sftp, hdfs) do.
            self._fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            self._fs.pipe_file(path, data)
        except Exception as error:  # every file system has errors of its own
            raise self._unreachable(error) from error

    def get(self, name: str) -> bytes:
        try:
            self._fs.invalidate_cache()
            data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri}/{name}") from None
        except Exception as error:
            raise self._unreachable(error) from error
        return data

    def names(self, prefix: str = "") -> list[str]:
        folder = f"{self._root}/{prefix}".rstrip("/")
        try:
            self._fs.invalidate_cache()  # listings of other processes' writes must not be old ones
            found = self._fs.find(folder)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._unreachable(error) from error
        start = len(self._root.lstrip("/")) + 1
        return sorted(path.lstrip("/")[start:] for path in found)

    def delete(self, name: str) -> None:
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._unreachable(error) from error

    def uri_of(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def _unreachable(self, error: Exception) -> StoreError:
        return StoreError(f"{self.uri} does not answer ({error}); check the address, the network and the credentials")


def _advice(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room there and start again: nothing half written is ever read"
    return "check that the folder exists and may be written to"
