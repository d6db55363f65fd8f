"""Superclasses of the predicted classes (CS-KD, Figure 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from ...evaluation.metrics import Array, score, to_numpy


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often samples of one group were predicted as another.

    Args:
        names: of the G groups.
        counts: ``[G, G]``, rows are the true groups, columns the predicted ones.
    """

    names: list[str]
    counts: NDArray[np.int64]

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
    names, group_of = list(dict.fromkeys(groups)), np.array(groups)
    predicted = group_of[score(logits, targets).predicted]
    return Confusion(names, confusion_matrix(group_of[to_numpy(targets)], predicted, labels=names))


def top1_by_group(logits: Array, targets: Array, groups: Sequence[str]) -> dict[str, float]:
    """Accuracy on the classes themselves, over the samples of each superclass; NaN for a superclass without samples.

    Source: Yun et al. 2020, Figure 4(c), which plots one minus this.
    """
    correct, of_sample = score(logits, targets).correct, np.array(groups)[to_numpy(targets)]
    own = {name: correct[of_sample == name] for name in dict.fromkeys(groups)}
    return {name: float(rows.mean()) if len(rows) else float("nan") for name, rows in own.items()}
