"""What a comparison reads of a run's folder: its metrics, its recipe and its validation curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import SkdError
from .metrics import Reliability
from .report import reliability_from_json


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluated run.

    Attributes:
        path: its folder, as it was given.
        variant: what was evaluated, if not the run as it is: ``best-fgsm`` for its folder ``evaluation-best-fgsm``.
        metrics: the finite values of ``metrics.json``.
        reliability: the diagram's arrays, if they were saved.
        info: what the evaluation noted about itself.
        recipe: the fields of ``recipe.json``, empty if there is none.
        validation: per logged quantity (``top1``, ``nll``) its ``(epoch, value)`` pairs.
    """

    path: Path
    variant: str
    metrics: Mapping[str, float]
    reliability: Reliability | None
    info: Mapping[str, Any]
    recipe: Mapping[str, Any]
    validation: Mapping[str, list[tuple[float, float]]]


def read_run(path: str | Path) -> Run:
    """Reads ``metrics.json`` and, if they are there, the run's recipe and logs.

    Args:
        path: the run's folder, whose ``evaluation`` is read; or any folder of an evaluation, in the run's or elsewhere.

    Raises:
        SkdError: there is no such folder, or ``metrics.json`` is missing or not what `write_report` writes.
    """
    folder = Path(path)
    make = f"`skd evaluate {folder} --data ...` makes it"
    if not folder.is_dir():
        raise SkdError(f"{folder} is not a folder; `skd compare` takes the folders of runs")
    found = [file for file in (folder / "metrics.json", folder / "evaluation" / "metrics.json") if file.is_file()]
    if not found:
        raise SkdError(f"{folder / 'metrics.json'} is missing; {make}")
    try:
        saved = json.loads(found[0].read_text(encoding="utf-8"))
        metrics = {str(name): float(value) for name, value in saved["metrics"].items() if value is not None}
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        arrays = saved.get("reliability")
        reliability = reliability_from_json(arrays) if arrays else None
        info = dict(saved.get("info") or {})
        if not metrics:
            raise ValueError("no metrics")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SkdError(f"{found[0]} is not a file of metrics ({type(error).__name__}: {error}); {make} anew") from None
    inside = not (folder / "recipe.json").exists() and (folder.parent / "recipe.json").exists()
    root = folder.parent if inside else folder
    variant = folder.name.removeprefix("evaluation").removeprefix("-") if inside else ""
    recipe, validation = _recipe(root / "recipe.json"), _validation(root / "metrics.jsonl")
    return Run(folder, variant, metrics, reliability, info, recipe, validation)


def _recipe(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SkdError(f"{path} is not JSON ({error}); training writes it") from None
    if not isinstance(recipe, dict):
        raise SkdError(f"{path} holds {type(recipe).__name__}, not the fields of a recipe; training writes it")
    recipe.pop("environment", None)  # how it was run, which differs between any two runs
    return recipe


def _validation(path: Path) -> Mapping[str, list[tuple[float, float]]]:
    """The validation entries. A line that a crash tore is left out; of an epoch repeated after it, the last counts."""
    curves: dict[str, dict[float, float]] = {"top1": {}, "nll": {}}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or entry.get("event") != "validate":
            continue
        epoch = _number(entry.get("epoch"))
        for name, curve in curves.items():
            value = _number(entry.get(name))
            if epoch is not None and value is not None:
                curve[epoch] = value
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def _number(value: Any) -> float | None:
    """The value if it is a finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
