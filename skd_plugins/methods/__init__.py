"""Training methods, one file each. Importing a file registers its method; all files of this folder are imported."""

from importlib import import_module
from pkgutil import iter_modules

from ._base import Method, create_method, get_method, kl_divergence, list_methods, method_summary, register_method

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

__all__ = [
    "Method",
    "create_method",
    "get_method",
    "kl_divergence",
    "list_methods",
    "method_summary",
    "register_method",
]
