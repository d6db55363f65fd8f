"""What several networks say about the samples that all of them get wrong (CS-KD, Figures 1b, 2, 6-10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...common.errors import SkdError
from ...evaluation.metrics import Array, score, to_numpy


@dataclass(frozen=True, eq=False)
class LogProbHistograms:
    """Log-probabilities of the predicted and the true class, for every network on the same samples and bins.

    Attributes:
        samples: ``[K]`` positions of the samples that all networks get wrong.
        predicted_edges: ``[bins + 1]`` in nats.
        predicted: network to counts ``[bins]`` of the log-probability of its predicted class.
        true_edges: ``[bins + 1]`` in nats.
        true: network to counts ``[bins]`` of the log-probability of the true class.
    """

    samples: NDArray[np.int64]
    predicted_edges: NDArray[np.float64]
    predicted: dict[str, NDArray[np.int64]]
    true_edges: NDArray[np.float64]
    true: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Distribution:
    """The probabilities that several networks give to a few classes of one sample.

    Attributes:
        sample: its position.
        target: its true class.
        classes: ``[k]`` or ``[k + 1]`` class indices, the likeliest first.
        probabilities: network to its probabilities of these classes.
    """

    sample: int
    target: int
    classes: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]


def common_mistakes(logits: Mapping[str, Array], targets: Array) -> NDArray[np.int64]:
    """Positions ``[K]``, ascending, of the samples that every network gets wrong.

    Args:
        logits: network to ``[N, C]``, of the same samples.
        targets: ``[N]`` class indices.

    Raises:
        SkdError: no networks, or logits that don't belong to the same samples.
    """
    if not logits:
        raise SkdError("common mistakes need the logits of at least one network")
    wrong = [~score(rows, targets).correct for rows in logits.values()]
    return np.flatnonzero(np.logical_and.reduce(wrong))


def log_prob_histograms(logits: Mapping[str, Array], targets: Array, bins: int = 40) -> LogProbHistograms:
    """Histograms on the common mistakes.

    Source: Yun et al. 2020, section 2.2 and Figures 2, 7-10. The number of bins and their range are unsaid: here from
        the least value of any network to 0 for the predicted class, and to 0 for the true one.

    Args:
        logits: network to ``[N, C]``, of the same samples.
        targets: ``[N]`` class indices.
        bins: at least 1.

    Raises:
        SkdError: as `common_mistakes`, or there is no sample that all get wrong.
    """
    if bins < 1:
        raise SkdError(f"bins must be at least 1, got {bins}")
    samples = common_mistakes(logits, targets)
    if not len(samples):
        raise SkdError(f"there is no sample that all of {', '.join(logits)} get wrong")
    predicted: dict[str, NDArray[np.float64]] = {}
    true: dict[str, NDArray[np.float64]] = {}
    for name, rows in logits.items():
        scores = score(to_numpy(rows)[samples], to_numpy(targets)[samples])
        predicted[name], true[name] = np.log(scores.confidence), scores.log_prob
    predicted_edges, predicted_counts = _histograms(predicted, bins)
    true_edges, true_counts = _histograms(true, bins)
    return LogProbHistograms(samples, predicted_edges, predicted_counts, true_edges, true_counts)


def predictive_distribution(logits: Mapping[str, Array], targets: Array, sample: int, k: int = 5) -> Distribution:
    """The softmax probabilities of one sample's likeliest classes, by several networks.

    Source: Yun et al. 2020, Figures 1(b) and 6, which show five classes of samples that both networks get wrong; how
        the samples and the classes were chosen is unsaid. Here the classes are the `k` with the largest probability
        averaged over the networks, and the true one behind them if it is not among them; choose the samples from
        `common_mistakes` by a rule or by chance, not by eye.

    Args:
        logits: network to ``[N, C]``, of the same samples.
        targets: ``[N]`` class indices.
        sample: position of the sample.
        k: number of classes.

    Raises:
        SkdError: there is no such sample or class.
    """
    target_of = to_numpy(targets)
    if not 0 <= sample < len(target_of) or k < 1 or not logits:
        raise SkdError(
            f"no distribution of {k} classes for sample {sample} of {len(target_of)}, {len(logits)} networks"
        )
    target = int(target_of[sample])
    probabilities = {name: _softmax(to_numpy(rows)[sample]) for name, rows in logits.items()}
    mean = np.mean(list(probabilities.values()), axis=0)
    classes = np.argsort(-mean, kind="stable")[:k]
    if target not in classes:
        classes = np.append(classes, target)
    return Distribution(sample, target, classes, {name: row[classes] for name, row in probabilities.items()})


def _histograms(
    values: Mapping[str, NDArray[np.float64]], bins: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    low = min(float(row.min()) for row in values.values())
    edges = np.linspace(min(low, -1e-12), 0.0, bins + 1)  # a range, also where all are certain
    return edges, {name: np.histogram(row, edges)[0].astype(np.int64) for name, row in values.items()}


def _softmax(row: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(np.asarray(row, np.float64) - np.max(row))
    result: NDArray[np.float64] = exponentials / exponentials.sum()
    return result
