"""The published numbers of both papers (``results.csv``), typed, and the one place where units are converted."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Metric:
    """Where our value of a metric is found, and how the papers print it: ours is a fraction or a plain number."""

    label: str  # its name in our tables
    evaluation: str = ""  # a name in `EVALUATIONS`; empty if it is derived from other printed numbers
    key: str = ""  # of that evaluation's values; ``{name}`` stands for that word of the number's setting
    percent: bool = True  # printed as 100 times the fraction
    error: bool = False  # printed as one minus our accuracy


METRICS = {
    "top1_error": Metric("top-1 error, %", "clean", "top1", error=True),
    "top5_error": Metric("top-5 error, %", "clean", "top5", error=True),
    "top1_acc": Metric("top-1 accuracy, %", "clean", "top1"),
    "top5_acc": Metric("top-5 accuracy, %", "clean", "top5"),
    "fgsm_acc": Metric("accuracy under FGSM, %", "fgsm", "top1_legacy"),
    "corruption_acc": Metric("accuracy, %", "corruptions", "{corruption}"),
    "mca": Metric("mCA, %", "corruptions", "mca"),
    "ece_percent": Metric("ECE, %", "clean", "ece"),
    "ece_fraction": Metric("ECE (fraction)", "clean", "ece_10", percent=False),
    "recall_at_1": Metric("R@1, %", "clean", "recall_at_1"),
    "fpr95": Metric("FPR at 95 % TPR, %", "ood", "{ood}/fpr95"),
    "detection_error": Metric("detection error, %", "ood", "{ood}/detection_error_min"),
    "auroc": Metric("AUROC, %", "ood", "{ood}/auroc"),
    "aupr_in": Metric("AUPR-in, %", "ood", "{ood}/aupr_in"),
    "aupr_out": Metric("AUPR-out, %", "ood", "{ood}/aupr_out"),
    "box_ap": Metric("box AP, %", "detection", "ap"),
    "box_ap50": Metric("box AP50, %", "detection", "ap50"),
    "p_assumption1": Metric("P(Assumption 1)", "gradients", "epoch{epoch}/p_assumption_1", percent=False),
    "r": Metric("r", "gradients", "epoch{epoch}/r", percent=False),
    "r1": Metric("r1", "gradients", "epoch{epoch}/r_1", percent=False),
    "top1_error_rel_change_percent": Metric("change against cross-entropy, %", percent=False),
    "top1_acc_gain_points": Metric("gain, points", percent=False),
}


@dataclass(frozen=True)
class Published:
    """One printed number. All fields are text as printed."""

    paper: str
    artefact: str
    setting: str  # ``name=value`` words
    method: str
    architecture: str
    dataset: str
    metric: str  # a name in `METRICS`
    value: str
    std: str  # empty if the paper states none
    better: str  # ``lower`` or ``higher``

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
        """Whether it follows from other printed numbers (a change or a gain in parentheses)."""
        return "derived" in self.settings

    @property
    def label(self) -> str:
        """The name of its metric in tables."""
        return METRICS[self.metric].label

    @property
    def number(self) -> float:
        """The value as a number."""
        return float(self.value)

    @property
    def text(self) -> str:
        """The value as printed, with its standard deviation if there is one."""
        return self.value + (f" ± {self.std}" if self.std else "")

    @property
    def decimals(self) -> int:
        """Number of decimals that are printed."""
        return len(self.value.partition(".")[2])

    def show(self, value: float) -> str:
        """A value with as many decimals as this number, and with a sign if this number has one."""
        return f"{value:{'+' if self.value[0] in '+-' else ''}.{self.decimals}f}"


@cache
def published() -> tuple[Published, ...]:
    """All of them, in the order of the papers."""
    text = files(__package__).joinpath("results.csv").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in csv.DictReader(text.splitlines()))


def in_printed_unit(metric: str, value: float) -> float:
    """Our value (a fraction; an accuracy, not an error) as the papers print the metric."""
    value = 1 - value if METRICS[metric].error else value
    return 100 * value if METRICS[metric].percent else value
