"""What videos were watched by the same people: vectors for the ids to start from.

On small data the softmax has too few steps to find from nothing what counting finds at once. On HetRec, neighbours by
counted co-occurrence rank twice as well as an SR whose ids start at random.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import LinearOperator, eigsh

from model_runtime.related import Neighbours

#: neighbours are kept of each video
NEIGHBOURS = 64
#: videos whose neighbours are counted at once
_CHUNK = 1024
#: a video watched this often has a vector of 1/sqrt(2) of the full length: rarely seen company says little
_DAMPING = 3


def cooccurrence_factors(user: np.ndarray, video: np.ndarray, videos: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors whose cosines say how alike the audiences of two videos are.

    The leading eigenvectors of the co-occurrence matrix, scaled by the roots of their eigenvalues (as in PureSVD,
    Cremonesi et al., RecSys 2010). A user of n videos counts 1/n for each pair; a pair is divided by the root of both
    videos' audiences; a video does not occur with itself, or the leading vectors would be single videos.

    Args:
        user, video: int [n], the engagements; repeated ones count once.
        videos: n_v.
        dim: length of a vector.

    Returns:
        float32 [n_v, dim], rows at most 1 long, and 0 for a video that shares no user with another.
    """
    pairs = np.unique(np.stack((user, video)), axis=1)
    _, row = np.unique(pairs[0], return_inverse=True)
    watched = csr_matrix((np.ones(len(row)), (row, pairs[1])), (int(row.max(initial=-1)) + 1, videos))
    per_user, audience = watched.sum(1).A1, watched.sum(0).A1
    shares = diags(per_user**-0.5) @ watched @ diags(np.maximum(audience, 1) ** -0.5)
    alone = shares.power(2).sum(0).A1  # the diagonal of shares' shares
    rank = min(dim, videos - 2)
    if rank < 1 or shares.nnz == 0:
        return np.zeros((videos, dim), np.float32)
    if videos <= 4 * dim:
        values, vectors = eigh(
            (shares.T @ shares).toarray() - np.diag(alone), subset_by_index=(videos - rank, videos - 1)
        )
    else:
        product = LinearOperator(
            (videos, videos), dtype=np.float64, matvec=lambda x: shares.T @ (shares @ x.ravel()) - alone * x.ravel()
        )
        values, vectors = eigsh(product, k=rank, v0=np.random.default_rng(seed).standard_normal(videos))
    factors = np.zeros((videos, dim), np.float32)
    factors[:, :rank] = vectors * np.sqrt(np.maximum(values, 0))
    length = np.linalg.norm(factors, axis=1)
    known = length > 1e-9
    confidence = np.sqrt(audience / (audience + _DAMPING))
    factors[known] *= (confidence[known] / length[known])[:, None]
    factors[~known] = 0
    return factors


def neighbours(user: np.ndarray, video: np.ndarray, videos: int, count: int = NEIGHBOURS) -> Neighbours:
    """For each video those that the same users watched most, the strongest first.

    A user of n videos counts n^-1/2 for each pair, the pair is divided by the root of the video's audience and by the
    fourth root of the neighbour's: what is popular is held down, but not altogether.

    Args:
        user, video: int [n], the engagements; repeated ones count once.
        videos: n_v.
        count: K.
    """
    pairs = np.unique(np.stack((user, video)), axis=1)
    _, row = np.unique(pairs[0], return_inverse=True)
    watched = csr_matrix((np.ones(len(row)), (row, pairs[1])), (int(row.max(initial=-1)) + 1, videos))
    per_user, audience = watched.sum(1).A1, np.maximum(watched.sum(0).A1, 1)
    ours = (diags(per_user**-0.5) @ watched @ diags(audience**-0.5)).T.tocsr()
    theirs = (watched @ diags(audience**-0.25)).tocsr()
    rows = np.full((videos, count), -1, np.int32)
    weights = np.zeros((videos, count), np.float32)
    for first in range(0, videos, _CHUNK):
        part = (ours[first : first + _CHUNK] @ theirs).tocsr()
        for i in range(part.shape[0]):
            mine = slice(part.indptr[i], part.indptr[i + 1])
            others, together = part.indices[mine], part.data[mine]
            keep = others != first + i
            others, together = others[keep], together[keep]
            best = np.lexsort((others, -together))[:count]
            rows[first + i, : len(best)] = others[best]
            weights[first + i, : len(best)] = together[best]
    return Neighbours(rows, weights)
