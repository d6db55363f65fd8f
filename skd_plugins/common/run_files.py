"""The JSON files in a run's folder, checked. Whoever reads one does it here; checkpoints are read in ``weights``."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .typed import read_json


class _Recorded(BaseModel):
    name: str = ""
    environment: dict[str, Any] = {}


def read_recipe(path: Path) -> dict[str, Any]:
    """The content of a ``recipe.json``: fields, some of which this version may not know, and the environment."""
    return read_json(path, _Recorded, what="a recipe")


class _Metrics(BaseModel):
    metrics: dict[str, float | None]
    reliability: dict[str, Any]
    info: dict[str, Any]


def read_metrics(path: Path) -> dict[str, Any]:
    """The content of a ``metrics.json``."""
    return read_json(path, _Metrics, what="a file of metrics (delete it, and skd evaluate writes it again)")


class LogLine(BaseModel):
    """What is read of a line of ``metrics.jsonl``."""

    event: str = ""
    step: int = 0
    epoch: int = 0
    top1: float | None = None
    nll: float | None = None


def read_log(path: Path) -> list[tuple[bytes, LogLine]]:
    """The lines of a ``metrics.jsonl``, without damaged ones: a killed process cuts its last one short."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append((line + b"\n", LogLine.model_validate_json(line)))
    return found
