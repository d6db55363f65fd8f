"""A model's predictions, their metrics, the report of an evaluation and the comparison of several.

`attacks` and `corruptions` perturb images for `predict`; `ood` detects data of no known class.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Predictions": "predictions",
    "Reliability": "metrics",
    "compare": "comparison",
    "ece": "metrics",
    "nll": "metrics",
    "predict": "predictions",
    "recall_at_1": "retrieval",
    "reliability": "metrics",
    "summarize": "report",
    "top1": "metrics",
    "top5": "metrics",
    "write_report": "report",
}
if TYPE_CHECKING:
    from .comparison import compare as compare
    from .metrics import Reliability as Reliability
    from .metrics import ece as ece
    from .metrics import nll as nll
    from .metrics import reliability as reliability
    from .metrics import top1 as top1
    from .metrics import top5 as top5
    from .predictions import Predictions as Predictions
    from .predictions import predict as predict
    from .report import summarize as summarize
    from .report import write_report as write_report
    from .retrieval import recall_at_1 as recall_at_1


def __getattr__(name: str) -> Any:  # imported on first use: comparing and plain metrics need no torch
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
