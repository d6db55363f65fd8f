"""Recall@1: how often the nearest other image has the same class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, check_rows

_BLOCK = 2**24  # float64 entries of the distance matrix at a time: 128 MiB
_EPS = float(np.finfo(np.float64).eps)


def recall_at_1(features: Array, targets: Array, *, indices: Array | None = None) -> float:
    """Fraction of samples whose nearest neighbour in L2, the sample itself excluded, has their class.

    Exact: a float64 matrix product with a bound on its rounding error leaves a few candidates a query, and their
    distances are computed from the differences, where nothing cancels. Neighbours at the same distance (duplicates,
    usually) share the query's vote, so that the value does not depend on the order of the samples.

    Args:
        features: ``[N, D]``.
        targets: ``[N]`` class indices.
        indices: ``[N]``, what the samples are called in messages; their positions when None.

    Returns:
        The fraction; NaN for a single sample.

    Raises:
        SkdError: no samples, or features that are not finite.
    """
    rows, labels = check_rows(features, targets, what="features", indices=indices)
    if len(rows) == 1:
        return float("nan")
    groups = _group_duplicates(rows)
    votes = np.zeros(len(rows))
    for group in np.flatnonzero(groups.sizes > 1):
        members = groups.members(int(group))
        _, own, counts = np.unique(labels[members], return_inverse=True, return_counts=True)
        votes[members] = (counts[own] - 1) / (len(members) - 1)
    single = np.flatnonzero(groups.sizes == 1)
    if len(single):
        _vote_by_distance(rows, labels, groups, single, votes)
    return float(votes.mean())


@dataclass(frozen=True, eq=False)
class _Groups:
    """Samples with identical features. ``members(g)`` are the samples of group g, in ascending order."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def first(self) -> NDArray[np.int64]:
        """One sample of every group."""
        return self.order[self.starts[:-1]]

    def members(self, group: int) -> NDArray[np.int64]:
        return self.order[self.starts[group] : self.starts[group + 1]]


def _group_duplicates(rows: NDArray[Any]) -> _Groups:
    """Without this a network whose features collapsed would make every sample a candidate of every other."""
    seen: dict[bytes, int] = {}
    ids = np.empty(len(rows), np.int64)
    for position, row in enumerate(rows):
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        ids[position] = seen.setdefault(key, len(seen))
    order = np.argsort(ids, kind="stable")
    return _Groups(order, np.searchsorted(ids[order], np.arange(len(seen) + 1)))


def _vote_by_distance(
    rows: NDArray[Any],
    labels: NDArray[np.int64],
    groups: _Groups,
    queries: NDArray[np.int64],
    votes: NDArray[np.float64],
) -> None:
    """Fills in the votes of the groups `queries`, which have one member each."""
    first = groups.first
    centred = rows[first].astype(np.float64)
    centred -= centred.mean(axis=0)
    norms = np.einsum("nd,nd->n", centred, centred)
    # |computed - true squared distance| <= bound * (norm_i + norm_j), for a dot product of any summation order.
    bound = (rows.shape[1] + 16) * _EPS
    step = max(1, _BLOCK // len(first))
    for start in range(0, len(queries), step):
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
            sample = first[group]
            if len(candidates) > 1:
                candidates = candidates[_nearest(rows, sample, first[candidates])]
            neighbours = np.concatenate([groups.members(c) for c in candidates])
            votes[sample] = (labels[neighbours] == labels[sample]).mean()


def _nearest(rows: NDArray[Any], query: int, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the samples are nearest to the query, to within the rounding of a float64 sum."""
    point = rows[query].astype(np.float64)
    step = max(1, _BLOCK // 8 // len(point))
    squared = np.concatenate(
        [((rows[samples[i : i + step]] - point) ** 2).sum(axis=1) for i in range(0, len(samples), step)]
    )
    nearest: NDArray[np.bool_] = squared <= squared.min() * (1 + len(point) * _EPS)
    return nearest
