"""Names of a package that are imported on first use: importing the package, or a command's help, needs no torch."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The package's ``__getattr__``; `names` lists the public ones of each of its modules."""
    modules = {name: module for module, inside in names.items() for name in inside}

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
