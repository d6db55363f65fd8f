"""Is one method better than another? Paired differences over seeds, with intervals and corrected p-values."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its parts are imported on first use

from .metrics import Array, check_rows, ece, nll

if TYPE_CHECKING:
    from .predictions import Predictions  # with torch


def difference(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """The mean of ``values - baseline``, which have the same seeds, its 95 % interval and p of the paired t-test."""
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    mean = float(differences.mean())
    if not differences.std():  # the t-test is not defined
        return dict.fromkeys(("mean", "low", "high"), mean) | {"p": float(mean == 0)}
    test = scipy.stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval()
    return {"mean": mean, "low": float(low), "high": float(high), "p": float(test.pvalue)}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def fit_temperature(logits: Array, targets: Array) -> float:
    """The T for which the softmax of ``logits / T`` has the lowest NLL (Guo et al. 2017)."""
    rows, labels = check_rows(logits, targets, what="logits")
    rows = rows.astype(np.float64)
    at_target = rows[np.arange(len(rows)), labels]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(scipy.special.logsumexp(scale * rows, axis=1) - scale * at_target))

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def temperature_scaled(held: "Predictions", reported: "Predictions") -> dict[str, float]:
    """NLL and ECE of `reported` at the temperature that fits `held`, which are other images."""
    temperature = fit_temperature(held.logits, held.targets)
    logits, targets = reported.logits.double() / temperature, reported.targets
    return {"temperature": temperature, "scaled_nll": nll(logits, targets), "scaled_ece": ece(logits, targets)}
