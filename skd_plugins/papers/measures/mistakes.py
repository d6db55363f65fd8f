"""What several networks say about the samples that all of them get wrong (CS-KD, Figures 1b, 2, 6-10).

All functions take ``logits``, network to ``[N, C]`` of the same samples, and ``targets``, ``[N]`` class indices.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ...common.errors import SkdError
from ...evaluation.metrics import Array, score, to_numpy


@dataclass(frozen=True, eq=False)
class LogProbHistograms:
    """Log-probabilities (nats) of the predicted and the true class, for every network on the same samples and bins.

    Args:
        samples: ``[K]`` positions of the samples that all networks get wrong.
        predicted_edges: ``[bins + 1]``, as `true_edges`.
        predicted: network to counts ``[bins]``, as `true`.
    """

    samples: NDArray[np.int64]
    predicted_edges: NDArray[np.float64]
    predicted: dict[str, NDArray[np.int64]]
    true_edges: NDArray[np.float64]
    true: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Distribution:
    """The probabilities that several networks give to a few classes of one sample.

    Args:
        classes: ``[k]`` or ``[k + 1]`` class indices, the likeliest first.
        probabilities: network to its probabilities of these classes.
    """

    sample: int
    target: int
    classes: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]


def common_mistakes(logits: Mapping[str, Array], targets: Array) -> NDArray[np.int64]:
    """Positions ``[K]``, ascending, of the samples that every network gets wrong."""
    return np.flatnonzero(np.logical_and.reduce([~score(rows, targets).correct for rows in logits.values()]))


def log_prob_histograms(logits: Mapping[str, Array], targets: Array, bins: int = 40) -> LogProbHistograms:
    """Histograms on the common mistakes.

    Source: Yun et al. 2020, section 2.2 and Figures 2, 7-10. The paper states neither the bins nor their range: here
        from the least value of any network to 0, for the predicted class and for the true one.
    """
    samples = common_mistakes(logits, targets)
    if not len(samples):
        raise SkdError(f"there is no sample that all of {', '.join(logits)} get wrong")
    scores = {name: score(to_numpy(rows)[samples], to_numpy(targets)[samples]) for name, rows in logits.items()}
    predicted = _histograms({name: np.log(one.confidence) for name, one in scores.items()}, bins)
    true = _histograms({name: one.log_prob for name, one in scores.items()}, bins)
    return LogProbHistograms(samples, *predicted, *true)


def predictive_distribution(logits: Mapping[str, Array], targets: Array, sample: int, k: int = 5) -> Distribution:
    """The softmax probabilities of one sample's likeliest classes, by several networks.

    Source: Yun et al. 2020, Figures 1(b) and 6, which show five classes of samples that both networks get wrong. The
        paper does not say how it chose samples and classes. Here the classes are the `k` with the largest probability
        averaged over the networks, then the true one if it is not among them; choose the samples from
        `common_mistakes` by a rule or by chance, not by eye.
    """
    target = int(to_numpy(targets)[sample])
    probabilities = {name: softmax(np.asarray(to_numpy(rows)[sample], np.float64)) for name, rows in logits.items()}
    mean = np.mean(list(probabilities.values()), axis=0)
    classes = np.argsort(-mean, kind="stable")[:k]
    if target not in classes:
        classes = np.append(classes, target)
    return Distribution(sample, target, classes, {name: row[classes] for name, row in probabilities.items()})


def _histograms(
    values: Mapping[str, NDArray[np.float64]], bins: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    low = min(float(row.min()) for row in values.values())
    edges = np.linspace(min(low, -1e-12), 0.0, bins + 1)  # a range even where all networks are certain
    return edges, {name: np.histogram(row, edges)[0].astype(np.int64) for name, row in values.items()}
