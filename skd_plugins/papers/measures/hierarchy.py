"""Accuracy above the classes: which superclass the predicted class belongs to (CS-KD, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...common.errors import SkdError
from ...evaluation.metrics import Array, score, to_numpy


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often a sample of one group was put into another.

    Args:
        names: of the G groups.
        counts: ``[G, G]``, rows are the true groups, columns the predicted ones.
    """

    names: list[str]
    counts: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """The fraction of samples in their own group."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def normalised(self) -> NDArray[np.float64]:
        """``[G, G]``, each row a distribution; NaN for a group without samples."""
        with np.errstate(invalid="ignore"):
            rows: NDArray[np.float64] = self.counts / self.counts.sum(axis=1, keepdims=True)
        return rows


def hierarchy_confusion(logits: Array, targets: Array, groups: Sequence[str]) -> Confusion:
    """True superclass against the superclass of the predicted class.

    Source: Yun et al. 2020, section 3.3 and Figure 4(a, b), where rows are normalised (`Confusion.normalised`).

    Args:
        logits: ``[N, C]``.
        targets: ``[N]`` class indices.
        groups: the superclass of each of the C classes. The result has the groups in order of first appearance.
    """
    scores = score(logits, targets)
    names, group_of = _groups(groups, logits)
    true, predicted = group_of[to_numpy(targets)], group_of[scores.predicted]
    flat = np.bincount(true * len(names) + predicted, minlength=len(names) ** 2)
    return Confusion(names, flat.reshape(len(names), len(names)))


def top1_by_group(logits: Array, targets: Array, groups: Sequence[str]) -> dict[str, float]:
    """Accuracy on the classes themselves, over the samples of each superclass; NaN for a superclass without samples.

    Source: Yun et al. 2020, Figure 4(c), which plots one minus this.
    """
    correct = score(logits, targets).correct
    names, group_of = _groups(groups, logits)
    of_sample = group_of[to_numpy(targets)]
    own = {name: correct[of_sample == number] for number, name in enumerate(names)}
    return {name: float(rows.mean()) if len(rows) else float("nan") for name, rows in own.items()}


def _groups(groups: Sequence[str], logits: Array) -> tuple[list[str], NDArray[np.int64]]:
    if len(groups) != logits.shape[1]:
        raise SkdError(f"groups name the superclass of {len(groups)} classes, but the logits have {logits.shape[1]}")
    names = list(dict.fromkeys(groups))
    return names, np.array([names.index(group) for group in groups], dtype=np.int64)
