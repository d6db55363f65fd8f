"""Trainings for the tests: a fixture that trains the tiny recipe, and what a run's folder has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RECIPE
from faults.common import tiny_data

from skd_plugins import replace, train

RUN = Path("tiny.test", "seed0")
GROUP_NORM = {"channels": [8, 8, 16, 16], "norm_layer": "groupnorm1"}
Fit = Callable[..., Path]


@pytest.fixture(name="fit")
def tiny_fit(tmp_path: Path) -> Fit:
    """Trains the tiny recipe with changes, from a kind of `tiny_data` or a folder; `out` is a folder of the test's."""

    def run(out: str = "", *, on: str | Path = "beton", resume: bool = False, **changes: Any) -> Path:
        recipe = replace(TINY_RECIPE, **changes)
        return train(recipe, data=str(tiny_data().get(str(on), on)), out=tmp_path / out, resume=resume)

    return run


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    """The lines of the log of a kind."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


def checkpoint(run: Path, name: str = "last.pt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / name, weights_only=True)
    return content
