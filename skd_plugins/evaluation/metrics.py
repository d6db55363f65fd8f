"""Metrics of a classifier: pure functions of logits ``[N, C]`` and targets ``[N]``, as numpy arrays or tensors.

All are computed in float64 and are fractions, not percent. Calibration error is ours because torchmetrics (1.9.0) puts
a confidence of exactly 1.0 into an extra bin beyond the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """What the metrics need of the logits, per sample ``[N]``.

    Attributes:
        predicted: class with the largest logit, the first of equals.
        confidence: probability of that class.
        log_prob: log-probability of the target.
        rank: number of classes before the target; of equal logits the lower class comes first.
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    rank: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the target is the predicted class."""
        first: NDArray[np.bool_] = self.rank == 0
        return first


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: confidence and accuracy in equally spaced bins of confidence.

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

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Reliability:
        """From what ``metrics.json`` has: ``vars`` of a diagram, with null for the means of an empty bin.

        Raises:
            KeyError: or TypeError or ValueError, for anything else.
        """
        edges, accuracy, confidence = (np.array(saved[key], np.float64) for key in ("edges", "accuracy", "confidence"))
        counts = np.array(saved["counts"], np.int64)
        if not len(edges) - 1 == len(counts) == len(accuracy) == len(confidence) > 0:
            raise ValueError("reliability arrays of different lengths")
        return cls(edges, counts, accuracy, confidence)

    @classmethod
    def pooled(cls, diagrams: Sequence[Reliability]) -> Reliability:
        """The diagram of all samples together, from diagrams with the same bins."""
        counts = np.sum([one.counts for one in diagrams], axis=0)
        with np.errstate(invalid="ignore"):
            accuracy = np.sum([np.nan_to_num(one.accuracy) * one.counts for one in diagrams], axis=0) / counts
            confidence = np.sum([np.nan_to_num(one.confidence) * one.counts for one in diagrams], axis=0) / counts
        return cls(diagrams[0].edges, counts, accuracy, confidence)

    @property
    def right(self) -> NDArray[np.int64]:
        """``[bins]`` samples that are predicted right."""
        return np.rint(np.nan_to_num(self.accuracy) * self.counts).astype(np.int64)

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
        indices: ``[N]`` names of the samples in error messages; their positions when None.
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


def bin_confidences(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> Reliability:
    """The diagram of confidences ``[N]`` in [0, 1], given whether each prediction is correct ``[N]``."""
    if bins < 1:
        raise SkdError(f"bins must be at least 1, got {bins}")
    edges = np.arange(bins + 1) / bins
    index = np.searchsorted(edges[1:], confidence, side="left")  # the first right edge not below the confidence
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, correct.astype(np.float64), bins) / counts
        mean_confidence = np.bincount(index, confidence, bins) / counts
    return Reliability(edges, counts, accuracy, mean_confidence)


def reliability(logits: Array, targets: Array, bins: int = 20) -> Reliability:
    """The reliability diagram of a classifier."""
    scores = score(logits, targets)
    return bin_confidences(scores.confidence, scores.correct, bins)


def ece(logits: Array, targets: Array, bins: int = 20) -> float:
    """Expected calibration error with equally spaced bins."""
    return reliability(logits, targets, bins).ece


def top_k(logits: Array, targets: Array, k: int) -> float:
    """Fraction of samples with the target among the k largest logits; 1 if there are no more than k classes."""
    return float((score(logits, targets).rank < k).mean())


def top1(logits: Array, targets: Array) -> float:
    """Accuracy."""
    return top_k(logits, targets, 1)


def top5(logits: Array, targets: Array) -> float:
    """Fraction of samples with the target among the five largest logits."""
    return top_k(logits, targets, 5)


def nll(logits: Array, targets: Array) -> float:
    """Mean negative log-likelihood in nats."""
    return float(-score(logits, targets).log_prob.mean())


def summarize(predictions: Predictions) -> dict[str, float]:
    """All metrics of one evaluation: top1, top5, nll, ece (20 bins), ece_10, recall_at_1 and num_samples.

    ``recall_at_1`` is NaN for a single sample, which has no neighbour. Error messages name samples by their position in
    the data set.
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
