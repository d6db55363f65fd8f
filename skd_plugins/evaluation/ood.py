"""Out-of-distribution detection: scores of logits, and metrics of scores.

The metrics take scores of in-distribution samples ``inside [N]`` and of others ``outside [M]`` and are fractions. The
in-distribution is the positive class: a *higher* score means more in-distribution.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from ..common.errors import SkdError
from .arrays import Array, to_numpy

Values: TypeAlias = NDArray[np.float64]
_TPR = 0.95


def max_softmax(logits: Array, temperature: float = 1.0) -> Values:
    """The log of the largest softmax probability at a temperature ``[N]``: ODIN's score; at 1 the baseline's (MSP).

    The logarithm ranks like the probability but keeps confident images apart, whose probabilities all round to 1.

    Source: Liang et al. 2018 (ODIN), Eq. 1 and section 3; Hendrycks and Gimpel 2017 for temperature 1.

    Args:
        logits: ``[N, C]``; for ODIN those of the images that `odin.ODIN` perturbed at *the same temperature*.
        temperature: T.
    """
    rows = to_numpy(logits)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise SkdError(f"scores need finite logits [N, C], got {list(rows.shape)}; the model may have diverged")
    if not 0 < temperature < float("inf"):
        raise SkdError(f"temperature must be above 0, got {temperature:g}")
    scaled = rows.astype(np.float64) / temperature
    top = scaled.argmax(axis=1)[:, None]
    others = np.exp(scaled - np.take_along_axis(scaled, top, axis=1))
    np.put_along_axis(others, top, 0, axis=1)
    scores: Values = -np.log1p(others.sum(axis=1))
    return scores


def fpr95(inside: Array, outside: Array) -> float:
    """The fraction of out-of-distribution samples that are accepted along with 95 % of the in-distribution.

    The threshold is the highest that accepts at least 95 % of the in-distribution. A score at the threshold is
    accepted, so equal scores are accepted together.
    """
    inside, outside = _scores(inside, outside)
    return float((outside >= _threshold(inside)).mean())


def detection_error(inside: Array, outside: Array) -> float:
    """``0.5 (1 - TPR) + 0.5 FPR`` at the threshold of `fpr95`.

    Source: SD-Dropout section 4.5 states this formula, as ODIN does; its printed values are `detection_error_min`.
    """
    inside, outside = _scores(inside, outside)
    threshold = _threshold(inside)
    return float(0.5 * (inside < threshold).mean() + 0.5 * (outside >= threshold).mean())


def detection_error_min(inside: Array, outside: Array) -> float:
    """The least ``0.5 (1 - TPR) + 0.5 FPR`` over all thresholds, at most 0.5.

    Source: SD-Dropout Table 7 prints values that its formula at 95 % TPR can't give (LSUN, CE: 39.9 by the formula,
        25.0 printed). The least value over thresholds can, and ODIN's released code (``calMetric.py``) computes it.
    """
    inside, outside = _scores(inside, outside)
    thresholds = np.unique(np.concatenate([inside, outside]))
    missed = np.searchsorted(np.sort(inside), thresholds, side="left") / len(inside)
    accepted = 1 - np.searchsorted(np.sort(outside), thresholds, side="left") / len(outside)
    return float(min(0.5, (0.5 * missed + 0.5 * accepted).min()))


def auroc(inside: Array, outside: Array) -> float:
    """Area under the ROC curve: how often an in-distribution sample scores higher; equal scores count half."""
    return float(roc_auc_score(*_labelled(*_scores(inside, outside))))


def aupr_in(inside: Array, outside: Array) -> float:
    """Average precision with the in-distribution as positive (scikit-learn's; equal scores enter together).

    Deviation: ODIN's code (``calMetric.py``) weighs both sets equally; here, as in scikit-learn, the value depends on
        their sizes. SD-Dropout does not say what it does. Its Table 7 fits 10,000 images (CIFAR-100's test set)
        against 5,640 (all of DTD) and about 10,000 of SVHN, whose test set has 26,032: with all of these, AUPR (in)
        could not be above AUPR (out) at its AUROC.
    """
    return float(average_precision_score(*_labelled(*_scores(inside, outside))))


def aupr_out(inside: Array, outside: Array) -> float:
    """`aupr_in` with the out-of-distribution as positive and the scores negated."""
    inside, outside = _scores(inside, outside)
    return aupr_in(-outside, -inside)


def ood_metrics(inside: Array, outside: Array) -> dict[str, float]:
    """All six: ``fpr95``, ``detection_error``, ``detection_error_min``, ``auroc``, ``aupr_in``, ``aupr_out``."""
    metrics = (fpr95, detection_error, detection_error_min, auroc, aupr_in, aupr_out)
    return {metric.__name__: metric(inside, outside) for metric in metrics}


def _scores(inside: Array, outside: Array) -> tuple[Values, Values]:
    pair = []
    for name, values in (("in-distribution", inside), ("out-of-distribution", outside)):
        scores = to_numpy(values).astype(np.float64)
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise SkdError(f"{name} scores must be finite and [N] with N at least 1, got {list(scores.shape)}")
        pair.append(scores)
    return pair[0], pair[1]


def _threshold(inside: Values) -> float:
    needed = int(np.ceil(_TPR * len(inside) - 1e-9))  # 19 of 20, although 0.95 * 20 may be a little more
    return float(np.sort(inside)[len(inside) - needed])


def _labelled(inside: Values, outside: Values) -> tuple[NDArray[np.int64], Values]:
    labels = np.repeat(np.array([1, 0]), (len(inside), len(outside)))
    return labels, np.concatenate([inside, outside])
