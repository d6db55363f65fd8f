"""Recall@1: how often the nearest other image has the same class."""

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..common.meter import tracked
from .metrics import Array, check_rows

_TILE = 2048  # rows and columns of float32 distances at a time: 16 MiB
_BLOCK = 2**24  # float64 values at a time: 128 MiB
_FEW = 64  # candidates a query may have in float32
_TINY = 2.0**-80  # a squared norm below which float32 products could underflow, the largest component being about 1
_EPS32, _EPS64 = (float(np.finfo(kind).eps) for kind in (np.float32, np.float64))

Indices: TypeAlias = NDArray[np.int64]
Pairs: TypeAlias = Iterator[tuple[Indices, Indices]]  # queries, and a candidate for each; all of a query in one item


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
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
    point_of = np.array([seen.setdefault(digest, len(seen)) for digest in digests])
    _, first, sizes = np.unique(point_of, return_index=True, return_counts=True)
    classes, labels = np.unique(labels, return_inverse=True)
    kinds, counts = np.unique(point_of * len(classes) + labels, return_counts=True)

    def of_class(points: Indices, labels: Indices) -> Indices:
        """How many samples at each point have the class."""
        wanted = points * len(classes) + labels
        places = np.minimum(np.searchsorted(kinds, wanted), len(kinds) - 1)
        return np.where(kinds[places] == wanted, counts[places], 0)

    votes = (of_class(point_of, labels) - 1) / np.maximum(sizes[point_of] - 1, 1)  # of the duplicates
    for query, candidate in _candidates(rows, first) if (sizes == 1).any() else ():
        single = sizes[query] == 1
        query, candidate = _nearest(rows, first, query[single], candidate[single])
        starts = np.flatnonzero(np.diff(query, prepend=-1))
        same = np.add.reduceat(of_class(candidate, labels[first[query]]), starts)
        votes[first[query[starts]]] = same / np.add.reduceat(sizes[candidate], starts)
    return float(votes.mean())


def _nearest(rows: NDArray[Any], first: Indices, query: Indices, candidate: Indices) -> tuple[Indices, Indices]:
    """Keeps the pairs at a query's smallest distance, to within the rounding of a float64 sum."""
    order = np.argsort(query, kind="stable")
    query, candidate = query[order], candidate[order]
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    squared = np.empty(len(query))
    step = max(1, _BLOCK // 8 // rows.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        difference = rows[first[candidate[part]]].astype(np.float64) - rows[first[query[part]]]
        squared[part] = (difference**2).sum(axis=1)
    limit = np.minimum.reduceat(squared, starts) * (1 + rows.shape[1] * _EPS64)
    kept = squared <= np.repeat(limit, np.diff(starts, append=len(query)))
    return query[kept], candidate[kept]


def _candidates(rows: NDArray[Any], first: Indices) -> Pairs:
    """For each point (a row of `first`) the others that can be nearest to it, as far as rounding lets one tell.

    ``|a|^2 + |b|^2 - 2ab`` of centred points has an error of at most ``bound * (|a|^2 + |b|^2)``, whatever the order of
    summation. A float32 product serves both of its points, so half of the matrix is computed. Points that are sorted
    by norm let one number bound the error of a tile. Queries that float32 can't settle go to `_in_float64`.
    """
    count, width = len(first), rows.shape[1]
    mean, scale = rows.mean(axis=0, dtype=np.float64), max(float(rows.max()), -float(rows.min())) or 1.0

    def centred(points: Indices) -> NDArray[np.float64]:
        """Scaled to at most about 1."""
        return np.asarray((rows[first[points]] - mean) / scale)

    parts = [np.arange(start, min(start + _TILE, count)) for start in range(0, count, _TILE)]
    norms = np.concatenate([np.square(centred(part)).sum(axis=1) for part in parts])
    order = np.argsort(norms, kind="stable")
    bound = np.float32((width + 16) * _EPS32)
    slack = 2 * bound * norms[order].astype(np.float32)
    best = np.where(norms[order] < _TINY, -np.inf, np.inf).astype(np.float32)  # lowest upper bounds; -inf: given up
    # Two more columns of the factors add the norms, lowered by the bound.
    left = np.ones((count, width + 2), np.float32)
    for part in parts:
        left[part, :-2] = centred(order[part])
    left[:, -2] = norms[order].astype(np.float32) * (1 - bound)

    counts = np.zeros(count, np.int64)
    found: list[tuple[Indices, Indices, NDArray[np.float32]]] = []
    tiles = [(a, b) for a in range(0, count, _TILE) for b in range(0, a + 1, _TILE)]
    for a, b in tracked(tiles, "Recall@1"):
        right = -2 * left[b : b + _TILE]
        right[:, -2], right[:, -1] = 1, left[b : b + _TILE, -2]
        lower = left[a : a + _TILE] @ right.T
        if a == b:
            np.fill_diagonal(lower, np.inf)
        for tile, i, j in ((lower, a, b), (lower.T, b, a))[: 1 if a == b else 2]:
            mine, smallest = slice(i, i + _TILE), tile.min(axis=1)
            np.minimum(best[mine], smallest + slack[mine] + slack[j : j + _TILE][-1], out=best[mine])
            active = np.flatnonzero(smallest <= best[mine])
            query, candidate = np.nonzero(tile[active] <= best[mine][active, None])
            query = active[query]
            counts[mine] += np.bincount(query, minlength=len(tile))
            best[mine][counts[mine] > _FEW] = -np.inf
            kept = counts[mine][query] <= _FEW
            query, candidate = query[kept], candidate[kept]
            found.append((query + i, candidate + j, tile[query, candidate]))
    query, candidate, lowest = (np.concatenate(part) for part in zip(*found, strict=True))
    kept = lowest <= best[query]
    yield order[query[kept]], order[candidate[kept]]
    given_up = order[np.isneginf(best)]
    if len(given_up):
        yield from _in_float64(centred(np.arange(count)), norms, given_up)


def _in_float64(points: NDArray[np.float64], norms: NDArray[np.float64], queries: Indices) -> Pairs:
    """These queries against all points."""
    bound = (points.shape[1] + 16) * _EPS64
    step = max(1, _BLOCK // len(points))
    for start in tracked(range(0, len(queries), step), "Recall@1"):
        block = queries[start : start + step]
        own = np.arange(len(block)), block
        lower = points[block] @ points.T
        lower *= -2
        lower += norms * (1 - bound)  # up to a term of the query
        lower[own] = np.inf
        nearest = lower.argmin(axis=1)
        limit = lower[own[0], nearest] + 2 * bound * (norms[nearest] + norms[block])
        query, candidate = np.nonzero(lower <= limit[:, None])
        yield block[query], candidate
