"""An approximate index of vectors by inner product, on faiss, made for the queries that it will get.

Preferences of users lie in fewer directions than the videos' vectors: of a trained model's, one direction holds half of
their energy. An index that treats all directions alike spends its lists and its bits on what no query looks at.
So vectors x become S^(1/2) x and queries q become S^(-1/2) q, with S the queries' second moment: inner products stay
what they were, and squared distances are now the errors that queries will see (as in "LeanVec", Tepper et al. 2023). A
random rotation then spreads what is left over all dimensions, because each is quantised alike.

In that space: lists around k-means centroids, probed by inner product; in a list 4 bits a dimension of what is left
after the centroid, scanned in registers (faiss' FastScan). What the scan finds is scored again from the vectors
themselves, so scores are exact, and only who is among them is approximate.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

#: added to the queries' second moment: directions that no query of the sample had may still come
_RIDGE = 0.05
_TRAINED_PER_LIST = 50
_ITERATIONS = 6
_PIECE = 1 << 16
_MEASURED = 256
#: shares of the lists to probe, and how many times the wanted results to score again, the cheapest first
_EFFORTS = (
    (0.01, 1.6),
    (0.02, 1.6),
    (0.04, 2.0),
    (0.06, 2.5),
    (0.09, 2.5),
    (0.11, 3.0),
    (0.12, 4.0),
    (0.13, 4.0),
    (0.14, 3.5),
    (0.15, 3.0),
    (0.16, 3.5),
    (0.18, 3.5),
    (0.21, 4.0),
    (0.25, 4.0),
    (0.3, 5.0),
    (0.5, 9.0),
)


class NearIndex:
    """Finds rows. One thread at a time. `recall` is against exact, on queries that it was not made from."""

    def __init__(
        self, take: Callable[[Rows], Floats], rows: Rows, queries: Floats, count: int, *, recall: float, threads: int
    ) -> None:
        """Build. Half of the queries shape it, of the others 256 choose how hard it searches.

        Args:
            take: vectors [n, d] of rows [n].
            rows: [n] what to index, at least 1 000.
            queries: [m, d], at least 64 typical ones.
            count: how many results searches want.
            recall: to reach with the least effort; the most effort is taken if none reaches it.
            threads: for building.

        Raises:
            ImportError: faiss is not installed.
        """
        import faiss

        self._faiss: Any = faiss
        self._take = take
        faiss.omp_set_num_threads(threads)
        rng = np.random.default_rng(0)
        self._to_vectors, self._to_queries = _spaces(queries[::2], rng)
        dim = queries.shape[1]
        self._lists = 1 << max(4, min(11, round(log2(len(rows)) / 2)))
        sample = self._moved(rng.choice(rows, min(len(rows), _TRAINED_PER_LIST * self._lists), replace=False))
        clusters = faiss.Kmeans(
            dim, self._lists, niter=_ITERATIONS, max_points_per_centroid=_TRAINED_PER_LIST, min_points_per_centroid=1
        )
        clusters.train(sample)
        # A vector belongs to the list whose centroid is nearest; a query looks where inner products are largest.
        self._by_distance, self._by_product = faiss.IndexFlatL2(dim), faiss.IndexFlatIP(dim)
        for quantizer in (self._by_distance, self._by_product):
            quantizer.add(np.asarray(clusters.centroids))
        self._index = faiss.IndexIVFPQFastScan(self._by_distance, dim, self._lists, dim, 4, faiss.METRIC_INNER_PRODUCT)
        self._looks_by = self._by_distance
        self._index.by_residual = True
        self._index.train(sample)
        for start in range(0, len(rows), _PIECE):
            self.add(rows[start : start + _PIECE])
        self.built = len(rows)
        self._choose(rows, queries[1::2][:_MEASURED], count, recall)

    def __len__(self) -> int:
        """How many rows are in it."""
        return int(self._index.ntotal)

    def add(self, rows: Rows) -> None:
        """More rows, which are not in it yet."""
        self._look_by(self._by_distance)
        self._index.add_with_ids(self._moved(rows), np.ascontiguousarray(rows, dtype=np.int64))

    def search(self, queries: Floats, count: int, spare: int, threads: int) -> Rows:
        """Rows near to each query [B, d]: [B, n], in any order, -1 where there are no more.

        There are enough of them for `count` of the best to be found, after up to `spare` were taken out.
        """
        self._faiss.omp_set_num_threads(threads)
        self._look_by(self._by_product)
        if self._index.nprobe != self._probes:
            self._index.nprobe = self._probes
        wanted = min(ceil(self._widen * count) + spare, len(self))
        found: Rows = self._index.search(queries @ self._to_queries, wanted)[1]
        return found

    def _look_by(self, quantizer: Any) -> None:
        if self._looks_by is not quantizer:  # to set it costs a small batch a part of its search
            self._index.quantizer = self._looks_by = quantizer

    def _moved(self, rows: Rows) -> Floats:
        moved: Floats = self._take(rows) @ self._to_vectors
        return moved

    def _choose(self, rows: Rows, queries: Floats, count: int, recall: float) -> None:
        """The least effort with the wanted recall."""
        exact = self._exact(rows, queries, count)
        for share, self._widen in _EFFORTS:
            self._probes = max(1, round(share * self._lists))
            self.recall = self._measured(queries, exact, count)
            if self.recall >= recall:
                return

    def _measured(self, queries: Floats, exact: Rows, count: int) -> float:
        shares = []
        for query, found, wanted in zip(queries, self.search(queries, count, 0, 1), exact, strict=True):
            found = found[found >= 0]
            best = found[np.argsort(-(self._take(found) @ query))[:count]]
            shares.append(len(np.intersect1d(best, wanted)) / len(wanted))
        return float(np.mean(shares))

    def _exact(self, rows: Rows, queries: Floats, count: int) -> Rows:
        """The best rows of each query, [m, count]."""
        count = min(count, len(rows))
        best, scores = np.empty((len(queries), 0), np.intp), np.empty((len(queries), 0), np.float32)
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            best = np.concatenate((best, np.broadcast_to(piece, (len(queries), len(piece)))), axis=1)
            scores = np.concatenate((scores, queries @ self._take(piece).T), axis=1)
            at = np.argpartition(-scores, min(count, scores.shape[1]) - 1, axis=1)[:, :count]
            best, scores = np.take_along_axis(best, at, 1), np.take_along_axis(scores, at, 1)
        return best


def _spaces(queries: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What to multiply vectors and queries with, [d, d] each."""
    dim = queries.shape[1]
    moment = queries.T.astype(np.float64) @ queries / len(queries)
    moment += _RIDGE * np.trace(moment) / dim * np.eye(dim)
    values, directions = np.linalg.eigh(moment)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    root = np.sqrt(values)
    to_vectors, to_queries = (directions * root) @ rotation, (directions / root) @ rotation
    return to_vectors.astype(np.float32), to_queries.astype(np.float32)
