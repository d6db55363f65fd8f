"""Names of a package that are imported on first use: importing the package, or a command's help, needs no torch."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy(package: str, file: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of the package whose ``__init__`` is `file`, for the names that it imports for type checkers.

    Those stand under ``if TYPE_CHECKING:``, each import on a line.
    """
    imports = re.findall(r"^    from \.(\S+) import (.+)$", Path(file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    modules = {name.partition(" as ")[0].strip(): module for module, names in imports for name in names.split(",")}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f".{modules[name]}", package), name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            raise ModuleNotFoundError(
                f"{name} needs {missing}, which is not installed: pip install 'skd_plugins[train]'", name=missing
            ) from error

    return load
