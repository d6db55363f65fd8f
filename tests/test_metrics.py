"""Metrics against slow, obvious computations of the same thing."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skd_plugins.common.errors import SkdError
from skd_plugins.evaluation import Predictions, Reliability, ece, nll, recall_at_1, reliability, summarize, top1, top5
from skd_plugins.evaluation.metrics import bin_confidences, score

quick = settings(max_examples=60, deadline=None, derandomize=True)
small_floats = st.floats(-40, 40, width=32)


@st.composite
def classified(draw: st.DrawFn, max_samples: int = 12, max_classes: int = 7) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logits, some rows so peaked that the confidence is exactly 1, and targets."""
    count, classes = draw(st.integers(1, max_samples)), draw(st.integers(1, max_classes))
    row = st.lists(small_floats, min_size=classes, max_size=classes)
    logits = np.array(draw(st.lists(row, min_size=count, max_size=count)), np.float32)
    logits *= np.array(draw(st.lists(st.sampled_from([1, 1, 100]), min_size=count, max_size=count)))[:, None]
    targets = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))
    return logits.astype(np.float32), targets


def slow_ece(confidences: list[float], correct: list[bool], bins: int) -> float:
    """The definition, one bin and one sample at a time."""
    total = 0.0
    for k in range(bins):
        members = [
            i
            for i, c in enumerate(confidences)
            if (c > k / bins or (k == 0 and c == 0)) and c <= (k + 1) / bins  # right-closed; 0 belongs to the first
        ]
        if members:
            accuracy = math.fsum(correct[i] for i in members) / len(members)
            confidence = math.fsum(confidences[i] for i in members) / len(members)
            total += len(members) / len(confidences) * abs(accuracy - confidence)
    return total


@quick
@given(classified(), st.integers(1, 25))
def test_ece_is_its_definition(data: tuple[NDArray[Any], NDArray[Any]], bins: int) -> None:
    logits, targets = data
    confidences = [1 / math.fsum(math.exp(float(x) - float(max(row))) for x in row) for row in logits]
    correct = [int(np.argmax(row)) == target for row, target in zip(logits, targets, strict=True)]
    result = reliability(logits, targets, bins)
    # exp() of numpy and of math may differ in the last bit; a confidence on an edge may then change its bin.
    edges = np.arange(bins + 1) / bins
    if all(np.abs(edges - c).min() > 1e-12 or c in (0.0, 1.0) for c in confidences):
        assert result.ece == pytest.approx(slow_ece(confidences, correct, bins), abs=1e-12)
        assert ece(logits, targets, bins) == result.ece
    assert result.counts.sum() == len(targets)
    assert (len(result.counts), result.edges[0], result.edges[-1]) == (bins, 0, 1)


@quick
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=30), st.sampled_from([1, 4, 10, 20]))
def test_confidences_on_the_edges(samples: list[tuple[int, bool]], bins: int) -> None:
    """Multiples of 1/40 hit every edge of 10 and 20 bins; the expected bin comes from exact fractions."""
    confidences = np.array([k / 40 for k, _ in samples])
    correct = np.array([c for _, c in samples])
    expected = np.zeros(bins, int)
    for k, _ in samples:
        expected[max(0, math.ceil(Fraction(k, 40) * bins) - 1)] += 1
    result = bin_confidences(confidences, correct, bins)
    assert result.counts.tolist() == expected.tolist()
    assert result.ece == pytest.approx(slow_ece(list(confidences), list(correct), bins), abs=1e-12)


def test_diagrams_pool_to_the_diagram_of_all_samples() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(90, 4)) * 3, rng.integers(0, 4, 90)
    whole = reliability(logits, targets)
    pooled = Reliability.pooled([reliability(logits[part], targets[part]) for part in (slice(30), slice(30, 90))])
    assert pooled.counts.tolist() == whole.counts.tolist()
    assert pooled.right.tolist() == whole.right.tolist()
    assert whole.right.sum() == (logits.argmax(1) == targets).sum()
    np.testing.assert_allclose(pooled.accuracy, whole.accuracy, rtol=1e-12)
    np.testing.assert_allclose(pooled.confidence, whole.confidence, rtol=1e-12)


@quick
@given(classified())
def test_ranks_and_likelihood_are_their_definition(data: tuple[NDArray[Any], NDArray[Any]]) -> None:
    logits, targets = data
    for k in (1, 2, 5, 100):
        inside = [t in sorted(range(len(row)), key=lambda c, r=row: -r[c])[:k] for row, t in zip(logits, targets)]  # noqa: B905
        assert (score(logits, targets).rank < k).tolist() == inside
    rows = [[float(x) for x in row] for row in logits]
    expected = [math.log(math.fsum(math.exp(x - max(r)) for x in r)) + max(r) - r[t] for r, t in zip(rows, targets)]  # noqa: B905
    assert nll(logits, targets) == pytest.approx(math.fsum(expected) / len(expected), rel=1e-12, abs=1e-12)
    assert score(logits, targets).correct.tolist() == (logits.argmax(1) == targets).tolist()


def test_chunks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(103, 7)).astype(np.float32), rng.integers(0, 7, 103)
    whole = score(logits, targets)
    monkeypatch.setattr("skd_plugins.evaluation.metrics._CHUNK", 70)
    parts = score(logits, targets)
    for name in ("predicted", "confidence", "log_prob", "rank"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_constant_logits_predict_the_first_class() -> None:
    logits, targets = np.zeros((10, 10), np.float32), np.arange(10)
    assert (top1(logits, targets), top5(logits, targets)) == (0.1, 0.5)
    assert nll(logits, targets) == pytest.approx(math.log(10))
    assert top5(np.array([[1.0, 2.0, 3.0]]), np.array([0])) == 1.0, "five of three classes"
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert nll(torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([0])) == pytest.approx(math.log1p(math.e))


def test_summary_has_every_metric() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(50, 8)).astype(np.float32), rng.integers(0, 8, 50)
    features = rng.normal(size=(50, 5)).astype(np.float32)
    assert summarize(Predictions(*map(torch.tensor, (logits, targets, features, range(50))))) == {
        "top1": top1(logits, targets),
        "top5": top5(logits, targets),
        "nll": nll(logits, targets),
        "ece": ece(logits, targets, 20),
        "ece_10": ece(logits, targets, 10),
        "recall_at_1": recall_at_1(features, targets),
        "num_samples": 50,
    }


def test_values_that_are_not_finite_name_the_first_sample() -> None:
    logits, features, indices = np.zeros((6, 3)), np.ones((6, 2)), np.arange(100, 112, 2)
    logits[4, 1], logits[5, 0], features[2, 0] = np.nan, np.inf, -np.inf
    with pytest.raises(SkdError, match=r"logits of sample 4 are not finite \(2 of 6"):
        top1(logits, np.zeros(6, int))
    for rows, message in ((logits, "logits of sample 108 are"), (np.zeros((6, 3)), "features of sample 104 are")):
        with pytest.raises(SkdError, match=message):  # the data set's index, not the row
            summarize(Predictions(*map(torch.tensor, (rows, np.zeros(6, int), features, indices))))


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "nothing to evaluate"),
        (np.zeros((2, 3)), np.zeros(3, int), r"\[2, 3\] and \[3\]"),
        (np.zeros((2, 3)), np.array([0, 3]), "target 3 does not fit logits of 3 classes"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "must be class indices, got float64"),
    ],
)
def test_bad_input_is_named(logits: NDArray[Any], targets: NDArray[Any], message: str) -> None:
    with pytest.raises(SkdError, match=message):
        ece(logits, targets)
