"""Metrics of a classifier: pure functions of logits ``[N, C]`` and targets ``[N]``, as numpy arrays or tensors.

All are computed in float64 and are fractions, not percent. Calibration error is ours because torchmetrics (1.9.0) puts
a confidence of exactly 1.0 into an extra bin beyond the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError

if TYPE_CHECKING:  # metrics need no torch
    from torch import Tensor

Array: TypeAlias = Union[NDArray[Any], "Tensor"]
_CHUNK = 2**22  # float64 values at a time: 32 MiB


def to_numpy(values: Array) -> NDArray[Any]:
    """The values as a numpy array; bfloat16 and float16 become float32."""
    if isinstance(values, np.ndarray):
        return values
    tensor = values.detach().cpu()
    return np.asarray(tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor)


def check_rows(
    rows: Array, targets: Array, *, what: str, indices: Array | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Checks that each sample has one finite row and one class index, and returns both as numpy arrays.

    Error messages call the rows `what` and name samples by `indices`, or else by their positions.
    """
    values, labels = to_numpy(rows), to_numpy(targets)
    if values.ndim != 2 or labels.ndim != 1 or len(values) != len(labels):
        raise SkdError(f"{what} must be [N, D] and targets [N], got {list(values.shape)} and {list(labels.shape)}")
    if not len(values) or not values.shape[1]:
        raise SkdError(f"nothing to evaluate: {what} have shape {list(values.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise SkdError(f"targets must be class indices, got {labels.dtype}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        name = first if indices is None else int(to_numpy(indices)[first])
        raise SkdError(
            f"{what} of sample {name} are not finite ({int((~finite).sum())} of {len(values)} samples are not); "
            "the model diverged or overflowed in half precision"
        )
    return values, labels.astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False)
class Scores:
    """What the metrics need of the logits, per sample ``[N]``."""

    predicted: NDArray[np.int64]  # the class with the largest logit, the first of equals
    confidence: NDArray[np.float64]  # the probability of that class
    log_prob: NDArray[np.float64]  # of the target
    rank: NDArray[np.int64]  # classes before the target; of equal logits the lower class comes first

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the target is the predicted class."""
        return np.equal(self.rank, 0)


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: mean accuracy and confidence ``[bins]`` in equally spaced bins of confidence.

    Bin k is ``(edges[k], edges[k + 1]]``; the first one also holds 0. The means of an empty bin are NaN.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Reliability":
        """From ``metrics.json``, where the means of an empty bin are null."""
        edges, accuracy, confidence = (np.array(saved[key], np.float64) for key in ("edges", "accuracy", "confidence"))
        return cls(edges, np.array(saved["counts"], np.int64), accuracy, confidence)

    @classmethod
    def pooled(cls, diagrams: "Sequence[Reliability]") -> "Reliability":
        """The diagram of all samples together, from diagrams with the same bins."""
        counts = np.sum([one.counts for one in diagrams], axis=0)
        pairs = [(np.nan_to_num([one.accuracy, one.confidence]) * one.counts) for one in diagrams]
        with np.errstate(invalid="ignore"):
            return cls(diagrams[0].edges, counts, *(np.sum(pairs, axis=0) / counts))

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

    Error messages name samples by `indices` if they are given, else by their positions.
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
    edges = np.arange(bins + 1) / bins
    index = np.searchsorted(edges[1:], confidence, side="left")  # the first right edge not below the confidence
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, correct.astype(np.float64), bins) / counts
        mean_confidence = np.bincount(index, confidence, bins) / counts
    return Reliability(edges, counts, accuracy, mean_confidence)


def calibration_intervals(scores: Scores, bins: int = 20, draws: int = 1000) -> dict[str, list[float]]:
    """95 % intervals of ``ece`` and of ``overconfidence``, mean confidence - accuracy, from images drawn anew.

    Noise raises an ECE, and drawing anew raises it once more: quantiles of the drawn ECEs would lie above that of a
    calibrated network. The ECE can be wrong by no more than the bins' gaps together, so its interval is the ECE plus
    and minus the 95 % quantile of their changes; it holds the true value at least as often.
    """
    gap, generator = scores.confidence - scores.correct, np.random.default_rng(0)
    index = np.searchsorted(np.arange(1, bins + 1) / bins, scores.confidence, side="left")
    observed = np.bincount(index, gap, bins) / len(gap)
    chosen = (generator.integers(0, len(gap), len(gap)) for _ in range(draws))
    drawn = np.array([np.bincount(index[rows], gap[rows], bins) for rows in chosen]) / len(gap)
    ece, error = np.abs(observed).sum(), np.quantile(np.abs(drawn - observed).sum(axis=1), 0.95)
    overconfidence = np.quantile(drawn.sum(axis=1), (0.025, 0.975))
    return {"ece": [max(0.0, float(ece - error)), float(ece + error)], "overconfidence": overconfidence.tolist()}


def reliability(logits: Array, targets: Array, bins: int = 20) -> Reliability:
    """The reliability diagram of a classifier."""
    scores = score(logits, targets)
    return bin_confidences(scores.confidence, scores.correct, bins)


def ece(logits: Array, targets: Array, bins: int = 20) -> float:
    """Expected calibration error with equally spaced bins."""
    return reliability(logits, targets, bins).ece


def top1(logits: Array, targets: Array) -> float:
    """Accuracy."""
    return float(score(logits, targets).correct.mean())


def top5(logits: Array, targets: Array) -> float:
    """Fraction of samples with the target among the five largest logits."""
    return float((score(logits, targets).rank < 5).mean())


def nll(logits: Array, targets: Array) -> float:
    """Mean negative log-likelihood in nats."""
    return float(-score(logits, targets).log_prob.mean())
