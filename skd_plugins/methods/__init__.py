"""Training methods, one file each. Importing a file registers its method."""

from ._base import Method, create_method, get_method, kl_divergence, list_methods, method_summary, register_method
from .ce import CE
from .cs_kd import CSKD
from .sd_dropout import SDDropout

__all__ = [
    "CE",
    "CSKD",
    "Method",
    "SDDropout",
    "create_method",
    "get_method",
    "kl_divergence",
    "list_methods",
    "method_summary",
    "register_method",
]
