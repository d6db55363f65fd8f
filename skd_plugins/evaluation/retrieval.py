"""Recall@1: how often the nearest other image has the same class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, check_rows
from .nearest import nearest_candidates

_BLOCK = 2**21  # float64 entries at a time: 16 MiB
_EPS = float(np.finfo(np.float64).eps)


def recall_at_1(features: Array, targets: Array, *, indices: Array | None = None) -> float:
    """Fraction of samples whose nearest neighbour in L2, the sample itself excluded, has their class.

    Exact: a matrix product with a bound on its rounding error (in float32, in float64 where that says too little)
    leaves a few candidates a query, and their distances are computed from the differences, where nothing cancels.
    Neighbours at the same distance (duplicates, usually) share the query's vote, so that the value does not depend on
    the order of the samples.

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
        first = groups.first
        for query, candidates in nearest_candidates(rows, first, single):
            sample = first[query]
            if len(candidates) > 1:
                candidates = candidates[_nearest(rows, sample, first[candidates])]
            neighbours = np.concatenate([groups.members(c) for c in candidates])
            votes[sample] = (labels[neighbours] == labels[sample]).mean()
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


def _nearest(rows: NDArray[Any], query: int, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the samples are nearest to the query, to within the rounding of a float64 sum."""
    point = rows[query].astype(np.float64)
    step = max(1, _BLOCK // len(point))
    squared = np.concatenate(
        [((rows[samples[i : i + step]] - point) ** 2).sum(axis=1) for i in range(0, len(samples), step)]
    )
    nearest: NDArray[np.bool_] = squared <= squared.min() * (1 + len(point) * _EPS)
    return nearest
