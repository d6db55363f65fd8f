"""Superclasses, stored with the data as ``hierarchy.json``."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import SkdError
from .sources import Source

FILE = "hierarchy.json"


def write_hierarchy(source: Source, folder: Path) -> None:
    """Writes the superclass of each class, by its name, into a data folder; nothing for a source without."""
    if source.hierarchy is not None:
        table = dict(zip(source.classes, source.hierarchy, strict=True))
        (folder / FILE).write_text(json.dumps(table, indent=1) + "\n")


def read_hierarchy(folder: Path) -> dict[str, str]:
    """Class name to superclass, of a data folder.

    Raises:
        SkdError: the folder has no hierarchy, or it is damaged.
    """
    path = Path(folder) / FILE
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist: these data have no hierarchy (those of skd data mixed have)") from None
    except (OSError, ValueError) as error:
        raise SkdError(f"{path} is damaged: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise SkdError(f"{path} is damaged: not a table of class names")
    return table
