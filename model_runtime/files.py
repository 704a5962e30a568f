"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

#: Starts the name of a file or folder that is still being written. Nobody reads it; a killed writer leaves one behind,
#: and it is safe to delete.
UNFINISHED = ".unfinished-"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and have the disk confirm it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_synced(source: Path, target: Path) -> None:
    """Copy a file's content and have the disk confirm it."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, whenever the writer is killed."""
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, beside `path`; it becomes `path` when the block ends, and is deleted if the block fails.

    Raises:
        FileExistsError: something is at `path` already.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        sync_folder(temporary)
        # Renaming onto a folder with files in it fails, so of two writers of one name the second is refused.
        try:
            temporary.rename(path)
        except OSError as error:
            raise FileExistsError(f"{path} exists already") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the disk confirm the names in a folder, where the platform can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
