"""A run in stages, each of which leaves a folder that appears whole: a run that was killed goes on after the last one.

WORK/lock              held while a run is under way
WORK/current/run.json  what the run is about, decided once
WORK/current/STAGE/    what a stage left
WORK/runs/RUN/         reports of runs that ended
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from threadpoolctl import threadpool_limits

from model_runtime.files import UNFINISHED, appearing_folder, replace_file
from offline_train.refresh_config import RefreshError


class Work:
    """The folder of the runs. A context manager: one run at a time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.current = self.folder / "current"
        self.seconds: dict[str, float] = {}  #: of the stages that were done by this process
        self._lock: TextIO | None = None

    def __enter__(self) -> Work:
        with room(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a+")  # held until __exit__
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            other = self._lock.read().strip()
            self._lock.close()
            raise RefreshError(
                f"another refresh is under way in {self.folder} (process {other}); wait for it, or stop it"
            ) from None
        with room(self.folder):
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def stage(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of a stage: made by `make(folder)`, unless an earlier process did so.

        Raises:
            RefreshError: there is no room for it.
        """
        folder = self.current / name
        if not folder.is_dir():
            began = time.monotonic()
            with room(self.folder), appearing_folder(folder) as unfinished:
                make(unfinished)
            self.seconds[name] = round(time.monotonic() - began, 2)
        return folder

    def note(self, name: str, data: bytes) -> None:
        """Write a file of the run, whole."""
        with room(self.folder):
            self.current.mkdir(parents=True, exist_ok=True)
            replace_file(self.current / name, data)

    def clear(self) -> None:
        """Forget the run that was under way."""
        shutil.rmtree(self.current, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed process left half made."""
        for path in self.current.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def finish(self, run: str, report: bytes, *files: Path) -> Path:
        """Keep a run's report and some of its files, and let go of the rest; where they are."""
        folder = self.folder / "runs" / run
        with room(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, folder / file.name)
            replace_file(folder / "report.json", report)
        self.clear()
        return folder


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """A full disk as a `RefreshError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RefreshError(_full(folder, error)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise RefreshError(f"{folder} can't be written ({error})") from error
        raise
    except RuntimeError as error:
        if "PytorchStreamWriter" in str(error):  # how PyTorch tells of a file that could not be written
            raise RefreshError(_full(folder, error)) from error
        raise


def _full(folder: Path, error: Exception) -> str:
    return (
        f"no room left in {folder} ({error}); make room and start the refresh again: it goes on after the last stage "
        "that is complete, and the serving model is left alone"
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads compute, whoever calls: sums in another order are other weights.

    For the whole of a run, so that a stage that was made before a kill changes nothing for those after it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
