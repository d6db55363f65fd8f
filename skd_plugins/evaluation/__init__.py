"""A model's predictions, their metrics, the report of an evaluation and the comparison of several.

`attacks` and `corruptions` perturb images for `predict`; `ood` detects data of no known class.
"""

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .comparison import compare as compare
    from .corruptions import Corruption as Corruption
    from .corruptions import corrupt as corrupt
    from .corruptions import photographs as photographs
    from .evaluate import evaluate_weights as evaluate_weights
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
    from .significance import fit_temperature as fit_temperature

__getattr__ = lazy(__name__, __file__)
