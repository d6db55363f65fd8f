"""``skd list``: methods, networks and data sets by name."""

import json
from importlib.resources import files
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from ..data.datasets import list_datasets

# What `listed.py` has found, since to build every method and network takes seconds.
_LISTED = json.loads(files(__package__).joinpath("listed.json").read_text())


def list_names(what: tyro.conf.Positional[Literal["methods", "models", "datasets"]] = "methods") -> None:
    """List the methods, our networks or the data sets, each with a short description."""
    table, note = {"methods": _methods, "models": _models, "datasets": _datasets}[what]()
    console = Console()
    console.print(table)
    console.print(note, highlight=False)


def _methods() -> tuple[Table, str]:
    table = Table("method", "source", "segments", "extra parameters", "step", box=None, pad_edge=False)
    for name, source, segments, extra, cost in _LISTED["methods"]:
        table.add_row(name, source.partition(": ")[0].rstrip("."), " ".join(segments), f"{extra:,}", f"{cost:.2f}")
    return table, (
        "Segments: the parts of a batch, each with the same number of images. Extra parameters: in training only, for "
        "a ResNet-50 with 1,000 classes. Step: passes through the network relative to cross-entropy, counted (forward "
        "1, backward 2) with default arguments, without heads and loading; a teacher counts as a network of the "
        "student's size."
    )


def _models() -> tuple[Table, str]:
    table = Table("model", "parameters", "input", box=None, pad_edge=False)
    for name, parameters, classes, pixels in _LISTED["models"]:
        table.add_row(name, f"{parameters:,} ({classes} classes)", f"{pixels} px")
    return table, (
        "and the networks of timm (timm.list_models()), and torchvision's as torchvision/NAME "
        "(torchvision.models.list_models())"
    )


def _datasets() -> tuple[Table, str]:
    table = Table("dataset", "classes", "training", "evaluation", "what it is", box=None, pad_edge=False)
    for data in list_datasets():
        train = f"{data.train:,}" if data.train else "-"
        table.add_row(data.name, f"{data.classes:,}", train, f"{data.val:,}", data.title)
    return table, "more about each: skd data NAME"
