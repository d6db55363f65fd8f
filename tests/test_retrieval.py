"""Recall@1 against exact distances."""

import math
from fractions import Fraction

import numpy as np
import pytest

from skd_plugins.common.errors import SkdError
from skd_plugins.evaluation import recall_at_1


@pytest.mark.parametrize(("offset", "kind"), [(0.0, np.float32), (4096.0, np.float32), (1e6, np.float64)])
def test_recall_is_that_of_exact_distances(offset: float, kind: type[np.floating]) -> None:
    """Also far from zero, where ``|a|^2 + |b|^2 - 2ab`` of the features themselves is nothing but noise."""
    rng = np.random.default_rng(1)
    features, targets = (offset + rng.normal(size=(60, 6))).astype(kind), rng.integers(0, 3, 60)
    rows = [[Fraction(float(x)) for x in row] for row in features]
    right = 0
    for i, row in enumerate(rows):
        distances = {
            j: sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for j, other in enumerate(rows) if j != i
        }
        right += targets[min(distances, key=distances.__getitem__)] == targets[i]
    assert recall_at_1(features, targets) == pytest.approx(right / 60, abs=1e-12)


def test_recall_of_odd_features() -> None:
    twins = np.array([[0.0], [0.0], [3.0], [3.0]], np.float32)  # the nearest is the twin, not the image itself
    assert recall_at_1(twins, np.array([0, 0, 1, 2])) == 0.5
    assert recall_at_1(np.ones((30, 4), np.float32), np.repeat(np.arange(10), 3)) < 0.2  # a collapsed network: chance
    assert math.isnan(recall_at_1(np.ones((1, 16), np.float32), np.zeros(1, int))), "nobody is near"
    with pytest.raises(SkdError, match=r"features of sample 7 are not finite"):
        recall_at_1(np.array([[1.0], [np.nan]]), np.zeros(2, int), indices=np.array([3, 7]))
