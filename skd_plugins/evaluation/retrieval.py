"""Recall@1: how often the nearest other image has the same class."""

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from ..common.meter import tracked
from .metrics import Array, check_rows

_BLOCK = 2**24  # distances at a time: 128 MiB in float64
_FEW = 64  # candidates that a query may have in float32
_TINY = 2.0**-80  # a squared norm below which float32 products could underflow, the largest component being about 1

Indices: TypeAlias = NDArray[np.int64]


def recall_at_1(features: Array, targets: Array, *, indices: Array | None = None) -> float:
    """Fraction of samples whose nearest neighbour in L2, the sample itself excluded, has their class.

    Exact: matrix products with a bound on their rounding errors leave a few candidates for each query, and the
    distances to these are computed from differences in float64. Neighbours at the same distance (usually duplicates)
    share the vote, so the value does not depend on the order of the samples.
    A single sample has no neighbour: NaN. Error messages name samples by `indices`, else by their positions.
    """
    rows, labels = check_rows(features, targets, what="features", indices=indices)
    if len(rows) == 1:
        return float("nan")
    # Duplicates are one point: if features collapse, every sample would be a candidate of every other.
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b((row + 0.0).tobytes(), digest_size=16).digest() for row in rows)  # -0.0 becomes 0.0
    point_of = np.array([seen.setdefault(digest, len(seen)) for digest in digests])
    _, first, sizes = np.unique(point_of, return_index=True, return_counts=True)
    points = rows if len(first) == len(rows) else rows[first]
    classes, labels = np.unique(labels, return_inverse=True)
    shape = len(first), len(classes)
    count = scipy.sparse.csr_matrix((np.ones(len(rows), np.int64), (point_of, labels)), shape)  # samples of each class

    votes = (count[point_of, labels].A1 - 1) / np.maximum(sizes[point_of] - 1, 1)  # of the duplicates
    for query, candidate in _candidates(points, np.flatnonzero(sizes == 1)):
        query, candidate = _nearest(points, query, candidate)
        starts = np.flatnonzero(np.diff(query, prepend=-1))
        same = np.add.reduceat(count[candidate, labels[first[query]]].A1, starts)
        votes[first[query[starts]]] = same / np.add.reduceat(sizes[candidate], starts)
    return float(votes.mean())


def _nearest(points: NDArray[Any], query: Indices, candidate: Indices) -> tuple[Indices, Indices]:
    """Keeps the pairs at a query's smallest distance, to within the rounding of a float64 sum."""
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    squared = np.empty(len(query))
    step = max(1, _BLOCK // 8 // points.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        difference = points[candidate[part]].astype(np.float64) - points[query[part]]
        squared[part] = (difference**2).sum(axis=1)
    limit = np.minimum.reduceat(squared, starts) * (1 + points.shape[1] * np.finfo(np.float64).eps)
    kept = squared <= np.repeat(limit, np.diff(starts, append=len(query)))
    return query[kept], candidate[kept]


def _candidates(
    points: NDArray[Any], queries: Indices, kind: type[np.floating[Any]] = np.float32
) -> Iterator[tuple[Indices, Indices]]:
    """For each query the other points that can be nearest to it, as far as rounding lets one tell: pairs, sorted.

    ``|a|^2 + |b|^2 - 2ab`` of centred points has an error of at most ``bound * (|a|^2 + |b|^2)``, whatever the order of
    summation. Queries that float32 can't settle are tried once more, in float64.
    """
    mean, scale = points.mean(axis=0, dtype=np.float64), max(float(points.max()), -float(points.min())) or 1.0
    centred, norms = np.empty(points.shape, kind), np.empty(len(points), kind)
    bound, step = kind((points.shape[1] + 16) * np.finfo(kind).eps), max(1, _BLOCK // len(points))
    for start in range(0, len(points), step):
        exact = (points[start : start + step] - mean) / scale
        centred[start : start + step], norms[start : start + step] = exact, np.square(exact).sum(axis=1)
    unsettled = []
    for start in tracked(range(0, len(queries), step), "Recall@1"):
        block = queries[start : start + step]
        own = np.arange(len(block)), block
        lower = centred[block] @ centred.T
        lower *= -2
        lower += norms * (1 - bound)  # up to a term of the query
        lower[own] = np.inf
        nearest = lower.argmin(axis=1)
        limit = lower[own[0], nearest] + 2 * bound * (norms[nearest] + norms[block])
        near = lower <= limit[:, None]
        if kind is np.float32:
            given_up = (near.sum(axis=1) > _FEW) | (norms[block] < _TINY)
            near[given_up] = False
            unsettled.append(block[given_up])
        query, candidate = np.nonzero(near)
        if len(query):
            yield block[query], candidate
    if unsettled and len(left := np.concatenate(unsettled)):
        yield from _candidates(points, left, np.float64)
