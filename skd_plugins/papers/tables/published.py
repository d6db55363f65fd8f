"""The published numbers of both papers (``results.csv``), typed, and the one place where units are converted."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from ...common.errors import SkdError

# What a metric of the table is of ours: (unit it is printed in, whether it is one minus our accuracy).
# "percent" is 100 times our fraction, "plain" is our number itself (fractions and quantities without a unit).
_UNITS: dict[str, tuple[Literal["percent", "plain"], bool]] = {
    "top1_error": ("percent", True),
    "top5_error": ("percent", True),
    "top1_acc": ("percent", False),
    "top5_acc": ("percent", False),
    "fgsm_acc": ("percent", False),
    "corruption_acc": ("percent", False),
    "mca": ("percent", False),
    "ece_percent": ("percent", False),
    "ece_fraction": ("plain", False),
    "recall_at_1": ("percent", False),
    "fpr95": ("percent", False),
    "detection_error": ("percent", False),
    "auroc": ("percent", False),
    "aupr_in": ("percent", False),
    "aupr_out": ("percent", False),
    "box_ap": ("percent", False),
    "box_ap50": ("percent", False),
    "p_assumption1": ("plain", False),
    "r": ("plain", False),
    "r1": ("plain", False),
    "top1_error_rel_change_percent": ("plain", False),
    "top1_acc_gain_points": ("plain", False),
}
METRIC_NAMES = {
    "top1_error": "top-1 error, %",
    "top5_error": "top-5 error, %",
    "top1_acc": "top-1 accuracy, %",
    "top5_acc": "top-5 accuracy, %",
    "fgsm_acc": "accuracy under FGSM, %",
    "corruption_acc": "accuracy, %",
    "mca": "mCA, %",
    "ece_percent": "ECE, %",
    "ece_fraction": "ECE (fraction)",
    "recall_at_1": "R@1, %",
    "fpr95": "FPR at 95 % TPR, %",
    "detection_error": "detection error, %",
    "auroc": "AUROC, %",
    "aupr_in": "AUPR-in, %",
    "aupr_out": "AUPR-out, %",
    "box_ap": "box AP, %",
    "box_ap50": "box AP50, %",
    "p_assumption1": "P(Assumption 1)",
    "r": "r",
    "r1": "r1",
    "top1_error_rel_change_percent": "change against cross-entropy, %",
    "top1_acc_gain_points": "gain, points",
}


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        paper: ``cs-kd`` or ``sd-dropout``.
        artefact: such as ``table1``.
        setting: as in the table, ``name=value`` words.
        method: as printed.
        architecture: as printed.
        dataset: as printed.
        metric: see `METRIC_NAMES`.
        value: as printed, a number as text (``46.00``).
        std: as printed, empty if there is none.
        better: ``lower`` or ``higher``.
    """

    paper: str
    artefact: str
    setting: str
    method: str
    architecture: str
    dataset: str
    metric: str
    value: str
    std: str
    better: str

    @property
    def id(self) -> str:
        """The artefact it belongs to, ``cs-kd/table1``."""
        return f"{self.paper}/{self.artefact}"

    @property
    def settings(self) -> Mapping[str, str]:
        """The words of `setting`."""
        return {name: value for name, _, value in (word.partition("=") for word in self.setting.split())}

    @property
    def derived(self) -> bool:
        """Whether it is computed from other printed numbers (a change or a gain in parentheses)."""
        return "derived" in self.settings

    @property
    def number(self) -> float:
        """The value."""
        return float(self.value)

    @property
    def spread(self) -> float | None:
        """The stated standard deviation, None if there is none."""
        return float(self.std) if self.std else None

    @property
    def decimals(self) -> int:
        """How many the value is printed with."""
        return len(self.value.partition(".")[2])

    def show(self, value: float) -> str:
        """A value in this number's unit with as many decimals, and with its sign if this has one."""
        return f"{value:{'+' if self.value[0] in '+-' else ''}.{self.decimals}f}"


@cache
def published() -> tuple[Published, ...]:
    """All of them, in the order of the papers."""
    text = files(__package__).joinpath("results.csv").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in csv.DictReader(text.splitlines()))


def in_printed_unit(metric: str, value: float) -> float:
    """Our value (fractions; accuracies, not errors) in the unit that the papers print the metric in.

    Raises:
        SkdError: the metric is not one of the papers'.
    """
    if metric not in _UNITS:
        raise SkdError(f"metric {metric!r} has no printed unit; add it to skd_plugins/papers/tables/published.py")
    unit, is_error = _UNITS[metric]
    value = 1 - value if is_error else value
    return 100 * value if unit == "percent" else value
