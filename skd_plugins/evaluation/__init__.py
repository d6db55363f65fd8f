"""Evaluation: a model's predictions, metrics of them, a report of one run and a comparison of several.

Importing this needs numpy only; torch, jinja2, Pillow and rich are imported by the functions that use them. What the
papers measure beyond that is imported by its file: perturbations for `predict` (`attacks`, `odin`, `corruptions`),
functions of its result (`ood`, `robustness`, `hierarchy`, `mistakes`, `embedding`), `gradients`, and `figures`.
"""

# Imported here and now, not on first use: the function `predict` has the name of its file, and an import of the file
# later on would put the module in the function's place.
from .comparison import compare
from .metrics import Reliability, ece, nll, reliability, summarize, top1, top5
from .predictions import Predictions, predict
from .report import write_report
from .retrieval import recall_at_1

__all__ = [
    "Predictions",
    "Reliability",
    "compare",
    "ece",
    "nll",
    "predict",
    "recall_at_1",
    "reliability",
    "summarize",
    "top1",
    "top5",
    "write_report",
]
