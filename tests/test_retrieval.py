"""Recall@1: exact, whatever rounding and ties do, and quick."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from faults.common import python
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_metrics import quick

from skd_plugins.evaluation import recall_at_1, retrieval


def slow_recall(features: NDArray[Any], targets: NDArray[Any]) -> float:
    """Exact rational distances; neighbours at the same distance share the vote."""
    rows = [[Fraction(float(x)) for x in row] for row in features]
    votes = []
    for i, row in enumerate(rows):
        distances = {
            j: sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for j, other in enumerate(rows) if j != i
        }
        nearest = [j for j, d in distances.items() if d == min(distances.values())]
        votes.append(np.mean([targets[j] == targets[i] for j in nearest]))
    return float(np.mean(votes))


def far_duplicates(offset: float) -> NDArray[Any]:
    """``|a|^2 + |b|^2 - 2ab`` in float32 sees nothing but noise here."""
    near = np.random.default_rng(3).integers(-2, 3, (60, 6)) * max(0.125, offset * 2.0**-22)
    return (offset + near).astype(np.float32)


def tight_clusters() -> NDArray[Any]:
    """With one sample far from all."""
    rng = np.random.default_rng(4)
    features = (rng.integers(0, 3, 40)[:, None] * 1000 + rng.normal(size=(40, 5)) * 1e-3).astype(np.float32)
    features[7] = 1e7
    return features


def permuted() -> NDArray[Any]:
    """Ties that rounding would break: the same squares, summed in another order, differ in the last float64 bit."""
    rng = np.random.default_rng(6)
    point = rng.normal(size=40).astype(np.float32)
    features = np.stack([np.zeros(40, np.float32), *(rng.permutation(point) for _ in range(12))])
    assert len(set((features[1:].astype(float) ** 2).sum(axis=1))) > 1
    return features


@pytest.mark.parametrize(
    "features", [*map(far_duplicates, (0.0, 100.0, 4096.0, 1e6)), tight_clusters(), permuted()], ids=lambda _: ""
)
def test_recall_where_rounding_matters(features: NDArray[Any]) -> None:
    targets = np.random.default_rng(1).integers(0, 3, len(features))
    assert recall_at_1(features, targets) == pytest.approx(slow_recall(features, targets), abs=1e-12)


@quick
@given(
    st.integers(2, 14).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=n, max_size=n),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
            st.permutations(range(n)),
        )
    ),
    st.sampled_from([0.0, 1000.0]), st.sampled_from([1e-3, 1.0, 1e-30, 1e30]), st.sampled_from([0, 2, 64]),
)  # fmt: skip
def test_recall_with_ties_and_duplicates(
    data: tuple[list[list[int]], list[int], list[int]], offset: float, scale: float, few: int
) -> None:
    features, targets = np.array(data[0], np.float32) * np.float32(0.1) + np.float32(offset), np.array(data[1])
    features *= np.float32(scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_FEW", few)  # of more candidates, float64 decides
        value = recall_at_1(features, targets)
        again = recall_at_1(features[data[2]], targets[data[2]])
    if offset:  # rounding to float32 leaves ties exact ties
        assert value == pytest.approx(slow_recall(features, targets), abs=1e-12)
    assert again == pytest.approx(value, abs=1e-12), "depends on the order"


def test_recall_of_a_collapsed_network_is_chance_and_quick() -> None:
    targets = np.repeat(np.arange(100), 300)
    assert recall_at_1(np.ones((30000, 16), np.float32), targets) == pytest.approx(299 / 29999)
    assert math.isnan(recall_at_1(np.ones((1, 16), np.float32), targets[:1])), "nobody is near"
    zeros = np.array([[0.0], [-0.0], [0.0]], np.float32)
    assert recall_at_1(zeros, np.array([0, 0, 1])) == pytest.approx(1 / 3), "-0.0 is 0.0"


def test_recall_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    features, targets = rng.normal(size=(83, 5)).astype(np.float32), rng.integers(0, 3, 83)
    features[50] = features[60]  # one pair of duplicates
    whole = recall_at_1(features, targets)
    assert whole == pytest.approx(slow_recall(features, targets))
    for block, few in ((300, 64), (2000, 0), (80, 1)):  # few=0: float32 gives up every query
        monkeypatch.setattr(retrieval, "_BLOCK", block)
        monkeypatch.setattr(retrieval, "_FEW", few)
        assert recall_at_1(features, targets) == whole


def test_recall_keeps_to_its_memory() -> None:
    """12,000 samples: the distance matrix would be 1.1 GiB, the blocks are 128 MiB and a mask of 16 MiB."""
    code = (
        "import resource, numpy as np; from skd_plugins.evaluation import recall_at_1\n"
        "x = np.random.default_rng(0).normal(size=(12000, 8)).astype('float32')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "recall_at_1(x, np.arange(12000) % 7)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = python("-c", code)
    assert int(result.stdout) < 400 * 1024, f"{int(result.stdout) // 1024} MiB"
