"""Training methods, one file each. Importing a file registers its method."""

from ._base import Method, create_method, get_method, kl_divergence, list_methods, method_summary, register_method
from .adacos import AdaCos
from .ce import CE
from .cs_kd import CSKD
from .label_smoothing import LabelSmoothing
from .max_entropy import MaxEntropy
from .sd_dropout import SDDropout
from .virtual_softmax import VirtualSoftmax

__all__ = [
    "CE",
    "CSKD",
    "AdaCos",
    "LabelSmoothing",
    "MaxEntropy",
    "Method",
    "SDDropout",
    "VirtualSoftmax",
    "create_method",
    "get_method",
    "kl_divergence",
    "list_methods",
    "method_summary",
    "register_method",
]
