"""Training methods, one file each. A new one is a file here and a line below: importing the file registers it."""

from .adacos import AdaCos
from .byot import BYOT
from .ce import CE
from .cs_kd import CSKD
from .cs_kd_e import CSKDE
from .ddgsd import DDGSD
from .dml import DML
from .dropout import Dropout
from .kd import KD
from .label_smoothing import LabelSmoothing
from .losses import kl_divergence
from .max_entropy import MaxEntropy
from .method import Method, create_method, get_method, list_methods, method_summary, register_method
from .ps_kd import PSKD
from .sd_dropout import SDDropout
from .virtual_softmax import VirtualSoftmax

__all__ = [
    "BYOT",
    "CE",
    "CSKD",
    "CSKDE",
    "DDGSD",
    "DML",
    "KD",
    "PSKD",
    "AdaCos",
    "Dropout",
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
