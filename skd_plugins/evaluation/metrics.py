"""Metrics of a classifier: pure functions of logits and targets, as numpy arrays or tensors.

All of them are computed in float64 and are fractions, not percent. Calibration error is computed here and not by
torchmetrics, whose version 1.9.0 puts a confidence of exactly 1.0 into a bin of its own, beyond the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError
from .arrays import Array, check_rows
from .retrieval import recall_at_1

if TYPE_CHECKING:
    from .predictions import Predictions

_CHUNK = 2**22  # float64 values at a time: 32 MiB


@dataclass(frozen=True, eq=False)
class Scores:
    """All that the metrics need of the logits, per sample.

    Attributes:
        predicted: ``[N]`` the class with the largest logit, the first one of equals.
        confidence: ``[N]`` the probability of that class.
        log_prob: ``[N]`` the log-probability of the target.
        rank: ``[N]`` how many classes come before the target; of equal logits the lower class comes first.
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    rank: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """``[N]`` whether the target is the predicted class."""
        first: NDArray[np.bool_] = self.rank == 0
        return first


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy in equally spaced bins of confidence.

    Attributes:
        edges: ``[bins + 1]``; bin k is ``(edges[k], edges[k + 1]]``, and the first one also holds 0.
        counts: ``[bins]`` samples.
        accuracy: ``[bins]`` mean accuracy, NaN in an empty bin.
        confidence: ``[bins]`` mean confidence, NaN in an empty bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of ``|accuracy - confidence|`` over the samples."""
        used = self.counts > 0
        gaps = np.abs(self.accuracy[used] - self.confidence[used])
        return float(gaps @ self.counts[used] / self.counts.sum())


def score(logits: Array, targets: Array, *, indices: Array | None = None) -> Scores:
    """Ranks and float64 log-softmax of the logits, a chunk at a time.

    Args:
        logits: ``[N, C]``.
        targets: ``[N]`` class indices.
        indices: ``[N]``, what the samples are called in messages; their positions when None.

    Raises:
        SkdError: no samples, logits that are not finite, or a target outside ``0 ... C - 1``.
    """
    rows, labels = check_rows(logits, targets, what="logits", indices=indices)
    count, classes = rows.shape
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise SkdError(f"target {wrong} does not fit logits of {classes} classes (0 to {classes - 1})")
    confidence, log_prob = np.empty(count), np.empty(count)
    predicted, rank = np.empty(count, np.int64), np.empty(count, np.int64)
    step = max(1, _CHUNK // classes)
    for start in range(0, count, step):
        part = slice(start, start + step)
        values, label = rows[part], labels[part, None]
        own = np.take_along_axis(values, label, axis=1)
        earlier = (values == own) & (np.arange(classes) < label)
        rank[part] = ((values > own) | earlier).sum(axis=1)
        predicted[part] = values.argmax(axis=1)
        shifted = values.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        own_shifted = np.take_along_axis(shifted, label, axis=1)[:, 0]
        total = np.exp(shifted, out=shifted).sum(axis=1)
        confidence[part] = 1 / total
        log_prob[part] = own_shifted - np.log(total)
    return Scores(predicted, confidence, log_prob, rank)


def bin_edges(bins: int) -> NDArray[np.float64]:
    """``[bins + 1]`` equally spaced from 0 to 1, each the float64 nearest to ``k / bins``."""
    return np.arange(bins + 1) / bins


def bin_index(confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin of every confidence ``[N]``: closed on the right, 0 in the first bin and 1 in the last."""
    # The first right edge that is not below the confidence.
    return np.searchsorted(bin_edges(bins)[1:], confidence, side="left").astype(np.int64)


def bin_confidences(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> Reliability:
    """`Reliability` of confidences ``[N]`` in [0, 1] and whether each prediction was correct ``[N]``."""
    if bins < 1:
        raise SkdError(f"bins must be at least 1, got {bins}")
    if not len(confidence) or not np.all((confidence >= 0) & (confidence <= 1)):
        raise SkdError("confidences must be probabilities of at least one sample")
    index = bin_index(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, correct.astype(np.float64), bins) / counts
        mean_confidence = np.bincount(index, confidence, bins) / counts
    return Reliability(bin_edges(bins), counts.astype(np.int64), accuracy, mean_confidence)


def reliability(logits: Array, targets: Array, bins: int = 20) -> Reliability:
    """Accuracy and confidence per bin of confidence. Args: logits ``[N, C]``, targets ``[N]``."""
    scores = score(logits, targets)
    return bin_confidences(scores.confidence, scores.correct, bins)


def ece(logits: Array, targets: Array, bins: int = 20) -> float:
    """Expected calibration error with equally spaced bins. Args: logits ``[N, C]``, targets ``[N]``."""
    return reliability(logits, targets, bins).ece


def top_k(logits: Array, targets: Array, k: int) -> float:
    """Fraction of samples with the target among the k largest logits; 1 if there are no more than k classes."""
    return float((score(logits, targets).rank < k).mean())


def top1(logits: Array, targets: Array) -> float:
    """Accuracy. Args: logits ``[N, C]``, targets ``[N]``."""
    return top_k(logits, targets, 1)


def top5(logits: Array, targets: Array) -> float:
    """Fraction of samples with the target among the five largest logits. Args: logits ``[N, C]``, targets ``[N]``."""
    return top_k(logits, targets, 5)


def nll(logits: Array, targets: Array) -> float:
    """Mean negative log-likelihood in nats. Args: logits ``[N, C]``, targets ``[N]``."""
    return float(-score(logits, targets).log_prob.mean())


def summarize(predictions: Predictions) -> dict[str, float]:
    """All metrics of one evaluation: top1, top5, nll, ece (20 bins), ece_10, recall_at_1 and num_samples.

    ``recall_at_1`` is NaN for a single sample, which has no neighbour.

    Raises:
        SkdError: no predictions, or some that are not finite; names the first such sample by its dataset index.
    """
    scores = score(predictions.logits, predictions.targets, indices=predictions.indices)
    return {
        "top1": float((scores.rank < 1).mean()),
        "top5": float((scores.rank < 5).mean()),
        "nll": float(-scores.log_prob.mean()),
        "ece": bin_confidences(scores.confidence, scores.correct, 20).ece,
        "ece_10": bin_confidences(scores.confidence, scores.correct, 10).ece,
        "recall_at_1": recall_at_1(predictions.features, predictions.targets, indices=predictions.indices),
        "num_samples": len(scores.rank),
    }
