"""The best of some rows of a table for each user of a batch, with compiled code where Numba is installed.

`model_runtime.ranking` does the same user by user, and is used until the functions are loaded, or where they can't be.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from threading import Thread
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from model_runtime.rows import Table

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Found = tuple[NDArray[np.intp], NDArray[np.float64]]

_NONE = np.empty(0, np.int64)


class Choice:
    """Chooses among the rows of a table. For one thread at a time."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._seen, self._mark = np.zeros(0, np.int64), 0
        _kernel()  # is loaded from now on, so that the first users need not wait for it

    @property
    def ready(self) -> bool:
        """Whether compiled code is at hand; without it nothing can be chosen here."""
        return _kernel().module is not None

    def best(
        self,
        preferences: Floats,
        near: Integers,
        alive: NDArray[np.bool_],
        count: int,
        *,
        beside: Integers = _NONE,
        excluded: Integers | None = None,
        cosine: bool = False,
    ) -> tuple[list[Found | None], Integers]:
        """Rows and rounded scores per user, best first, ties by row; None for a user whose scores can't be ranked here.

        Beside them, [B], how many of the rows to choose from a user must not get.

        Args:
            preferences: [B, d].
            near: [B, n] rows to choose from, each at most once; -1: none.
            alive: which rows may be chosen; rows behind its end may not.
            count: how many at most.
            beside: [m] more rows for all users.
            excluded: [B, e] rows that a user must not get, in any order; -1: none.
            cosine: the score is the inner product divided by the row's length.
        """
        module = _kernel().module
        assert module is not None
        size = len(preferences)
        if len(self._seen) < len(alive):
            self._seen = np.zeros(2 * len(alive), np.int64)
        rows, scores = np.empty((size, count), np.int64), np.empty((size, count), np.float64)
        counts, barred = np.empty(size, np.int64), np.empty(size, np.int64)
        mark, self._mark = self._mark, self._mark + size
        module.choose(
            np.ascontiguousarray(near, np.int64),
            np.ascontiguousarray(beside, np.int64),
            np.ascontiguousarray(np.empty((size, 0)) if excluded is None else excluded, np.int64),
            *self._table.parts(),
            alive,
            self._seen,
            mark,
            np.ascontiguousarray(preferences, np.float32),
            cosine,
            rows,
            scores,
            counts,
            barred,
        )
        return [
            (rows[user, :found], scores[user, :found]) if found >= 0 else None
            for user, found in enumerate(counts.tolist())
        ], barred


class _Kernel:
    """The compiled module, loaded in a thread of its own."""

    def __init__(self) -> None:
        self.module: ModuleType | None = None
        self._thread: Thread | None = None
        if find_spec("numba") is not None:
            self._thread = Thread(target=self._load, name="compiled-choice", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until it is loaded or compiled, if it can be."""
        if self._thread is not None:
            self._thread.join()

    def _load(self) -> None:
        try:
            from model_runtime import choice_kernel

            choice_kernel.load()
            self.module = choice_kernel
        except Exception as error:  # whatever it is, NumPy does the same
            log.warning("lists are chosen by NumPy, which is slower: %s (is NUMBA_CACHE_DIR writable?)", error)


@cache
def _kernel() -> _Kernel:
    return _Kernel()


def module() -> ModuleType | None:
    """The compiled functions (`model_runtime.choice_kernel`), if they are at hand."""
    return _kernel().module


def wait() -> None:
    """Until compiled code is at hand, where Numba is installed; once on a machine it takes some seconds."""
    _kernel().wait()
