"""Hierarchies, common mistakes, corruption means and t-SNE, each against the obvious computation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_plugins.common.errors import SkdError
from skd_plugins.data.datasets.cifar100c import CORRUPTIONS
from skd_plugins.evaluation import recall_at_1
from skd_plugins.evaluation.report import corruption_accuracy
from skd_plugins.papers.measures.embedding import tsne
from skd_plugins.papers.measures.hierarchy import Confusion, hierarchy_confusion, top1_by_group
from skd_plugins.papers.measures.mistakes import common_mistakes, log_prob_histograms, predictive_distribution

quick = settings(max_examples=50, deadline=None, derandomize=True)
GROUPS = ["bird", "dog", "bird", "indoor", "dog"]


def one_hot(classes: list[int], count: int = 5) -> np.ndarray:
    return 9.0 * np.eye(count, dtype=np.float32)[classes]


# ----------------------------------------------------------------------------------------------------------- hierarchy


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_confusion_counts_groups(pairs: list[tuple[int, int]]) -> None:
    targets, predicted = (list(column) for column in zip(*pairs, strict=True))
    result = hierarchy_confusion(one_hot(predicted), np.array(targets), GROUPS)
    assert result.names == ["bird", "dog", "indoor"], "in order of appearance"
    for i, true in enumerate(result.names):
        for j, guess in enumerate(result.names):
            expected = sum(GROUPS[t] == true and GROUPS[p] == guess for t, p in pairs)
            assert result.counts[i, j] == expected
    by_group = top1_by_group(torch.from_numpy(one_hot(predicted)), torch.tensor(targets), GROUPS)
    for i, name in enumerate(result.names):
        own = [t == p for t, p in pairs if GROUPS[t] == name]
        assert by_group[name] == pytest.approx(np.mean(own) if own else math.nan, nan_ok=True)
        assert result.normalised[i].sum() == pytest.approx(1 if own else math.nan, nan_ok=True)


def test_a_wrong_class_of_the_right_group_counts_for_the_hierarchy_only() -> None:
    logits, targets = one_hot([2, 4, 3]), np.array([0, 4, 3])
    counts = hierarchy_confusion(logits, targets, GROUPS).counts
    assert np.trace(counts) == counts.sum() == 3
    assert top1_by_group(logits, targets, GROUPS) == {"bird": 0, "dog": 1, "indoor": 1}
    assert Confusion(["a", "b"], np.array([[3, 1], [0, 4]])).normalised.tolist() == [[0.75, 0.25], [0, 1]]


# ------------------------------------------------------------------------------------------------------------ mistakes


def two_networks() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 6, 200)
    return {name: rng.normal(size=(200, 6)) * scale for name, scale in (("CE", 6.0), ("CS-KD", 1.0))}, targets


def test_common_mistakes_are_wrong_everywhere() -> None:
    logits, targets = two_networks()
    expected = [i for i in range(200) if all(rows[i].argmax() != targets[i] for rows in logits.values())]
    assert 0 < len(expected) < 200
    assert common_mistakes(logits, targets).tolist() == expected


def test_histograms_count_log_probabilities_of_the_mistakes() -> None:
    logits, targets = two_networks()
    result = log_prob_histograms(logits, targets, bins=7)
    wrong = common_mistakes(logits, targets)
    assert np.array_equal(result.samples, wrong)
    for kind in ("predicted", "true"):
        edges, counts = getattr(result, f"{kind}_edges"), getattr(result, kind)
        assert len(edges) == 8
        assert edges[-1] == 0
        lowest = []
        for name, rows in logits.items():
            log_softmax = torch.from_numpy(rows[wrong]).log_softmax(1).numpy()
            values = log_softmax.max(1) if kind == "predicted" else log_softmax[np.arange(len(wrong)), targets[wrong]]
            expected = [
                sum(edges[k] <= v < edges[k + 1] or (k == 6 and v == 0) or abs(v - edges[k]) < 1e-12 for v in values)
                for k in range(7)
            ]
            assert counts[name].tolist() == expected
            assert counts[name].sum() == len(wrong), "every sample is in a bin"
            lowest.append(values.min())
        assert edges[0] == pytest.approx(min(lowest))
    assert np.average(result.predicted_edges[:-1], weights=result.predicted["CE"]) > np.average(
        result.predicted_edges[:-1], weights=result.predicted["CS-KD"]
    ), "the network with the larger logits is the more certain one"


def test_histograms_of_certain_mistakes_have_a_range() -> None:
    result = log_prob_histograms({"a": np.array([[2000.0, 0.0]])}, np.array([1]), bins=3)
    assert result.predicted["a"].tolist() == [0, 0, 1]
    assert result.true["a"].tolist() == [1, 0, 0]


def test_distribution_of_a_sample() -> None:
    logits = {
        "a": np.log([[0.5, 0.3, 0.15, 0.04, 0.01], [0.2] * 5]),
        "b": np.log([[0.1, 0.6, 0.2, 0.09, 0.01], [0.2] * 5]),
    }
    result = predictive_distribution(logits, np.array([4, 0]), 0, k=3)
    assert result.classes.tolist() == [1, 0, 2, 4], "by the mean probability, and the true class behind them"
    np.testing.assert_allclose(result.probabilities["a"], [0.3, 0.5, 0.15, 0.01])
    np.testing.assert_allclose(result.probabilities["b"], [0.6, 0.1, 0.2, 0.01])
    assert (result.sample, result.target) == (0, 4)
    assert predictive_distribution(logits, np.array([4, 0]), 0, k=5).classes.tolist() == [1, 0, 2, 3, 4]


def test_without_common_mistakes_there_are_no_histograms() -> None:
    with pytest.raises(SkdError, match="no sample that all of a get wrong"):
        log_prob_histograms({"a": one_hot([1])}, np.array([1]))


# ---------------------------------------------------------------------------------------------------------- corruption


def test_mca_is_the_mean_of_the_printed_fifteen() -> None:
    """SD-Dropout's Table 6, cross-entropy: the printed accuracies have the printed mean."""
    values = (23.1, 31.2, 27.1, 57.0, 25.1, 52.4, 50.1, 52.7, 47.2, 61.1, 70.2, 50.6, 59.4, 52.9, 52.4)
    printed = dict(zip(CORRUPTIONS, values, strict=True))
    spread = np.array([10, 5, 0, -5, -10])  # a mean of 0
    result = corruption_accuracy({name: list((value + spread) / 100) for name, value in printed.items()})
    assert list(result) == [*CORRUPTIONS, "mca"]
    for name, value in printed.items():
        assert result[name] == pytest.approx(value / 100)
    assert result["mca"] == pytest.approx(0.4749, abs=1e-4), "printed; the mean of the rounded ones is 0.47497"


def test_extra_corruptions_do_not_count() -> None:
    full = dict.fromkeys(CORRUPTIONS, [0.5] * 5)
    result = corruption_accuracy(full | {"spatter": [1.0] * 5})
    assert result["mca"] == 0.5
    assert result["spatter"] == 1.0


# ---------------------------------------------------------------------------------------------------------------- t-SNE


def test_tsne_keeps_neighbours_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 30)
    features = torch.from_numpy(rng.normal(size=(90, 16)) + 8 * np.eye(3, 16)[targets])
    points = tsne(features, perplexity=10)
    assert points.shape == (90, 2)
    assert recall_at_1(points, targets) > 0.95
    assert np.array_equal(points, tsne(features, perplexity=10))
