"""Which rows can be nearest to a row: matrix products with bounds on their rounding errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..common.meter import tracked

_TILE = 2048  # rows and columns of distances at a time in float32: 16 MiB
_BLOCK = 2**24  # float64 distances at a time: 128 MiB
_FEW = 64  # candidates of a query that float32 may leave
_TINY = 2.0**-80  # squared norm, the largest component being about 1; products of smaller rows could underflow

Candidates: TypeAlias = Iterator[tuple[int, NDArray[np.int64]]]


def nearest_candidates(rows: NDArray[Any], first: NDArray[np.int64], queries: NDArray[np.int64]) -> Candidates:
    """For each query those other points that can be nearest to it, as far as rounding lets one tell.

    All points that are at the smallest distance are among them, to within the rounding of a float64 sum.

    Args:
        rows: ``[N, D]``.
        first: ``[G]``, the rows that are the points; no two are the same.
        queries: ``[Q]``, positions in `first`.

    Yields:
        every query once, with its candidates, positions in `first` in ascending order.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    if 4 * len(queries) > len(first):  # else all pairs of points in float32 cost more than the queries' in float64
        unsettled = np.zeros(len(first), bool)
        unsettled[queries] = True
        for query, candidates in _in_float32(rows, first, mean, unsettled):
            unsettled[query] = False
            yield query, candidates
        queries = np.flatnonzero(unsettled)
    if len(queries):
        yield from _in_float64(rows, first, mean, queries)


def _in_float32(
    rows: NDArray[Any], first: NDArray[np.int64], mean: NDArray[np.float64], wanted: NDArray[np.bool_]
) -> Candidates:
    """The queries that float32 can answer; left out are those with too many candidates or too small a norm.

    Each product serves both of its points, so half of the matrix is computed. It gives lower bounds of the squared
    distances at once, the norms being two more columns of the factors. The upper bounds are higher by a multiple of
    the norms; the points are sorted by norm, so that one number bounds a tile's.
    """
    centred = _Centred(rows, first, mean)
    if not centred.scale:
        return
    norms = centred.squared_norms()
    order = np.argsort(norms, kind="stable")
    norms = norms[order].astype(np.float32)
    # Rounded factors, rounded norms and D + 2 products summed in any order, with |2ab| <= |a|^2 + |b|^2.
    bound = np.float32((rows.shape[1] + 16) * np.finfo(np.float32).eps)
    left = np.empty((len(order), rows.shape[1] + 2), np.float32)
    for part, chunk in centred.chunks(order):
        left[part, :-2] = chunk
    left[:, -2], left[:, -1] = norms * (1 - bound), 1
    slack = 2 * bound * norms

    best = np.full(len(order), np.inf, np.float32)  # the lowest upper bound so far
    best[~wanted[order] | (norms < _TINY)] = -np.inf  # nothing is a candidate
    found = _Found(len(order))
    tiles = -(-len(order) // _TILE)
    for b in tracked(  # a row of tiles is one longer than the one before
        range(0, len(order), _TILE), "Recall@1", total=tiles * (tiles + 1) / 2, size=lambda b: b // _TILE + 1
    ):
        columns = slice(b, b + _TILE)
        right = -2 * left[columns]
        right[:, -2], right[:, -1] = 1, left[columns, -2]
        for a in range(0, b + 1, _TILE):
            tile = slice(a, a + _TILE)
            lower = left[tile] @ right.T
            if a == b:
                np.fill_diagonal(lower, np.inf)
            else:
                found.add(lower.T, lower.min(axis=0), b, a, best[columns], slack[columns] + slack[tile][-1])
            found.add(lower, lower.min(axis=1), a, b, best[tile], slack[tile] + slack[columns][-1])
    for query, candidates in found.all(best):
        yield int(order[query]), np.sort(order[candidates])


class _Found:
    """Candidates found so far: positions of query and candidate, and the lower bound of the distance."""

    def __init__(self, count: int) -> None:
        self.counts = np.zeros(count, np.int64)
        self.parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []

    def add(
        self, lower: NDArray[np.float32], smallest: NDArray[np.float32], query_at: int, candidate_at: int,
        best: NDArray[np.float32], slack: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Takes a tile's candidates, and lowers `best` in place; -inf gives a query up.

        Args:
            lower: ``[q, c]`` lower bounds.
            smallest: ``[q]``, their minima over the candidates.
            query_at: position of the first query.
            candidate_at: position of the first candidate.
            best: ``[q]``, the lowest upper bounds so far.
            slack: ``[q]``, how much higher than a lower bound an upper bound can be.
        """
        np.minimum(best, smallest + slack, out=best)
        active = np.flatnonzero(smallest <= best)
        query, candidate = np.nonzero(lower[active] <= best[active, None])
        query = active[query]
        counts = self.counts[query_at : query_at + len(best)]
        counts += np.bincount(query, minlength=len(best))
        best[counts > _FEW] = -np.inf
        kept = counts[query] <= _FEW
        query, candidate = query[kept], candidate[kept]
        self.parts.append((query + query_at, candidate + candidate_at, lower[query, candidate]))

    def all(self, best: NDArray[np.float32]) -> Candidates:
        """Each query that has not been given up, with what still is a candidate when all tiles have been seen."""
        queries, candidates, lower = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        still = lower <= best[queries]
        queries, candidates = queries[still], candidates[still]
        by_query = np.argsort(queries, kind="stable")
        queries, candidates = queries[by_query], candidates[by_query]
        if not len(queries):
            return
        starts = np.flatnonzero(np.diff(queries, prepend=-1))
        for query, some in zip(queries[starts], np.split(candidates, starts[1:]), strict=True):
            yield int(query), some


class _Centred:
    """The points minus their mean, times a power of two that makes the largest component about 1; in chunks."""

    def __init__(self, rows: NDArray[Any], first: NDArray[np.int64], mean: NDArray[np.float64]) -> None:
        self.rows, self.first, self.mean, self.scale = rows, first, mean, 1.0
        largest = max(float(np.abs(chunk).max()) for _, chunk in self.chunks())
        # 0: no such power (zeros of either sign only), or one near the end of float64's range.
        self.scale = math.ldexp(1.0, -math.frexp(largest)[1]) if 1e-300 < largest < 1e300 else 0.0

    def chunks(self, order: NDArray[np.int64] | None = None) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """``[n, D]`` in the order given."""
        chosen = self.first if order is None else self.first[order]
        step = max(1, _BLOCK // 4 // self.rows.shape[1])
        for start in range(0, len(chosen), step):
            part = slice(start, start + step)
            chunk = self.rows[chosen[part]].astype(np.float64)
            chunk -= self.mean
            chunk *= self.scale
            yield part, chunk

    def squared_norms(self) -> NDArray[np.float64]:
        return np.concatenate([np.einsum("nd,nd->n", chunk, chunk) for _, chunk in self.chunks()])


def _in_float64(
    rows: NDArray[Any], first: NDArray[np.int64], mean: NDArray[np.float64], queries: NDArray[np.int64]
) -> Candidates:
    """All queries, each against all points."""
    centred = rows[first].astype(np.float64)
    centred -= mean
    norms = np.einsum("nd,nd->n", centred, centred)
    # |computed - true squared distance| <= bound * (norm_i + norm_j), for a dot product of any summation order.
    bound = (rows.shape[1] + 16) * float(np.finfo(np.float64).eps)
    step = max(1, _BLOCK // len(first))
    for start in tracked(range(0, len(queries), step), "Recall@1"):
        block = queries[start : start + step]
        low = centred[block] @ centred.T
        low *= -2
        low += norms * (1 - bound)  # a lower bound of the squared distances, up to a term of the query
        low[np.arange(len(block)), block] = np.inf
        nearest = low.argmin(axis=1)
        high = low[np.arange(len(block)), nearest] + 2 * bound * (norms[nearest] + norms[block])
        query, candidate = np.nonzero(low <= high[:, None])
        ends = np.cumsum(np.bincount(query, minlength=len(block)))
        for group, candidates in zip(block, np.split(candidate, ends[:-1]), strict=True):
            yield int(group), candidates
