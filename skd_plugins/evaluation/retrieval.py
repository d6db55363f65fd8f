"""Recall@1: how often the nearest other image has the same class."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from .metrics import Array, check_rows


def recall_at_1(features: Array, targets: Array, *, indices: Array | None = None) -> float:
    """Fraction of samples whose nearest neighbour in L2, the sample itself excluded, has their class.

    Of several neighbours at the smallest distance scikit-learn takes one by position. A single sample has none: NaN.
    Error messages name samples by `indices`, else by their positions.
    """
    rows, labels = check_rows(features, targets, what="features", indices=indices)
    if len(rows) == 1:
        return float("nan")
    # scikit-learn computes |a|^2 + |b|^2 - 2ab, in which a large mean would drown the distances.
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(centred).kneighbors(return_distance=False)[:, 0]
    return float((labels[nearest] == labels).mean())
