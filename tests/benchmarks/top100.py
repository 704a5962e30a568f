"""top100-vs-numpy: the best 100 of a catalog, by `model_runtime.nearest` against numpy and against faiss' exact index.

Videos and preferences are drawn with the means and covariances of a trained model's
(`tests/support/trained_vectors.py`), length 1, width 64. numpy: one product for 32 users (64 up to 200 000 videos),
then `argpartition` and a sort of the 100. `the worker's exact way` is what serves below the index's size: the same
product, then the best by a bound from the maxima of groups. `faiss exact` is `IndexFlatIP`. Users come 64 at a time, or
one. Rates are users per second of processor time of one thread. Each round's recall, the share of the exact 100 that is
found, must be 0.985. Of 10 000 videos both sides score all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from support import trained_vectors
from threadpoolctl import threadpool_limits

from model_runtime.candidates import Candidates
from model_runtime.nearest import Nearest
from model_runtime.ranking import best, thresholds

COUNT, MOST = 100, 64


def run(
    folder: Path, *, rounds: int, quick: bool, videos: int, batch: int, against: str = "numpy"
) -> list[tuple[float, float]]:
    """Rates in users per second as (nearest, the other), one pair per round; `against` numpy, exact or faiss.

    `folder` is not used.
    """
    import faiss  # noqa: F401 (it brings an OpenBLAS of its own)

    # OpenBLAS' other threads stay busy for a while after a product, and the processor's time that they take so would
    # be counted to whoever is measured next.
    with threadpool_limits(1):
        return _rounds(rounds, quick=quick, videos=videos, batch=batch, against=against)


def _rounds(rounds: int, *, quick: bool, videos: int, batch: int, against: str) -> list[tuple[float, float]]:
    import faiss

    faiss.omp_set_num_threads(1)
    nearest, vectors = _ready(videos)
    users = 64 if quick or batch == 1 else 256
    flat = faiss.IndexFlatIP(vectors.shape[1])
    if against == "faiss":
        flat.add(vectors)
    buffer = np.empty(MOST * len(vectors), np.float32)

    def ours(queries: np.ndarray) -> list[np.ndarray]:
        found = nearest.search(queries, lambda: np.empty((len(queries), 0), np.int64))
        return exactly(queries) if found is None else [rows for rows, _ in found]

    def product(queries: np.ndarray) -> np.ndarray:
        scores = buffer[: len(queries) * len(vectors)].reshape(len(queries), len(vectors))
        return np.matmul(queries, vectors.T, out=scores)

    def exactly(queries: np.ndarray) -> list[np.ndarray]:
        scores = product(queries)
        bounds = thresholds(scores, COUNT)
        return [best(row, COUNT, bound)[0] for row, bound in zip(scores, bounds, strict=True)]

    def by_numpy(queries: np.ndarray) -> list[np.ndarray]:
        scores = product(queries)
        rows = np.argpartition(scores, -COUNT, axis=1)[:, -COUNT:]
        order = np.argsort(-np.take_along_axis(scores, rows, 1), axis=1)
        return list(np.take_along_axis(rows, order, 1))

    def by_faiss(queries: np.ndarray) -> list[np.ndarray]:
        return list(flat.search(queries, COUNT)[1])

    other = {"numpy": by_numpy, "exact": exactly, "faiss": by_faiss}[against]
    step = batch if against == "faiss" else 32 if videos > 200_000 else MOST  # as in the scorer
    pairs = []
    for number in range(rounds):
        queries = trained_vectors.preferences(users, seed=100 + number)
        sides: list[tuple[Callable[[np.ndarray], list[np.ndarray]], int]] = [
            (ours, batch),
            (other, min(batch, step)),
        ]
        spent, found = {}, {}
        for work, together in sides if number % 2 else sides[::-1]:
            began = time.process_time()
            found[work] = [
                rows for start in range(0, users, together) for rows in work(queries[start : start + together])
            ]
            spent[work] = time.process_time() - began
        recall = np.mean([len(np.intersect1d(*two)) / COUNT for two in zip(found[ours], found[other], strict=True)])
        pairs.append((users / spent[ours], users / spent[other]))
        a, b = pairs[-1]
        how = "all scored" if nearest.recall is None else f"index, stated recall {nearest.recall:.3f}"
        print(
            f"  round {number + 1}/{rounds}: {a:,.0f} against {b:,.0f} users/s, ratio {a / b:.1f}, "
            f"recall {recall:.4f} ({how})",
            flush=True,
        )
        assert recall >= 0.985
    return pairs


_made: dict[int, tuple[Nearest, np.ndarray]] = {}


def _ready(count: int) -> tuple[Nearest, np.ndarray]:
    """Kept from one benchmark to the next of the same size."""
    if count not in _made:
        _made.clear()
        vectors = trained_vectors.videos(count)
        zeros = np.zeros((1, vectors.shape[1]), np.float32)
        bundle: Any = SimpleNamespace(
            video_ids=np.array([str(i) for i in range(count)], dtype=object),
            video_id_vectors=zeros,
            video_title_vectors=zeros,
            video_comment_vectors=zeros,
            video_vectors=vectors,
            comment_ids=np.empty(0, dtype=object),
            comment_vectors=zeros[:0],
            comment_video=np.empty(0, np.int32),
            manifest=SimpleNamespace(counts=SimpleNamespace(videos=count)),
        )
        nearest = Nearest(Candidates(bundle), COUNT)
        nearest.search(trained_vectors.preferences(1024), lambda: np.empty((1024, 0), np.int64))
        began = time.perf_counter()
        nearest.wait()
        print(f"  {count:,} videos; an index took {time.perf_counter() - began:.1f} s in one thread", flush=True)
        _made[count] = nearest, vectors
    return _made[count]


small = partial(run, videos=10_000, batch=64)
medium = partial(run, videos=100_000, batch=64)
large = partial(run, videos=1_000_000, batch=64)
large_single = partial(run, videos=1_000_000, batch=1)
large_exact = partial(run, videos=1_000_000, batch=64, against="exact")
large_faiss = partial(run, videos=1_000_000, batch=64, against="faiss")
