"""Accuracy under corruptions: per corruption and their mean (SD-Dropout, Table 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..data.catalog.cifar100c import CORRUPTIONS, SEVERITIES
from ..errors import SkdError


def corruption_accuracy(top1: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Accuracy of each corruption, averaged over severities, and ``mca``, the mean over the 15 of the benchmark.

    Source: SD-Dropout, section 4.4.2 and Table 6: mCA is the mean of the 15 accuracies printed. The severities are
        unsaid; the authors' script (yechanp/self_kd ``eval_cifiar_C.py``) takes all five together, which is the mean
        over them.
    Deviation: that script averages 19 corruptions, the four extra ones too; the table has 15, and so has this mean.

    Args:
        top1: corruption to its accuracies at severities 1 to 5: all 15, extra ones as you like. CIFAR-100-C's parts
            are named ``fog/3``.

    Returns:
        every corruption given, in its order, then ``mca``; fractions.

    Raises:
        SkdError: a corruption or a severity is missing.
    """
    missing = [name for name in CORRUPTIONS if name not in top1]
    if missing:
        raise SkdError(f"mca is the mean of {len(CORRUPTIONS)} corruptions; not evaluated: {', '.join(missing)}")
    for name, values in top1.items():
        if len(values) != len(SEVERITIES):
            raise SkdError(f"{name} has {len(values)} accuracies, not one for each severity 1 to {len(SEVERITIES)}")
    accuracy = {name: float(np.mean(values)) for name, values in top1.items()}
    return accuracy | {"mca": float(np.mean([accuracy[name] for name in CORRUPTIONS]))}
