"""``skd list``: what has a name here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


def print_list(what: Literal["methods", "models", "datasets"]) -> None:
    """Prints a table of names with what they are."""
    from rich.console import Console
    from rich.table import Table

    columns, rows, closing = {"methods": _methods, "models": _models, "datasets": _datasets}[what]()
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    if closing:
        console.print(closing, highlight=False)


Listing = tuple[Sequence[str], list[tuple[str, ...]], str]


def _methods() -> Listing:
    from ..methods.table import method_rows

    rows: list[tuple[str, ...]] = [
        (
            row.name,
            row.source.partition(": ")[0].rstrip("."),
            " ".join(row.segments),
            f"{row.extra:,}",
            f"{row.cost:.2f}",
        )
        for row in method_rows()
    ]
    closing = (
        "Segments: the parts of a batch, as many images each. Extra parameters: in training only, on a ResNet-50 with "
        "1,000 classes. Step: passes through the network over cross-entropy's, counted (forward 1, backward 2), with "
        "default arguments; heads and loading are not counted, and a teacher is as large as the student."
    )
    return ("method", "source", "segments", "extra parameters", "step"), rows, closing


def _models() -> Listing:
    import timm
    import torch

    from ..networks import NETWORKS
    from ..networks.build import build_network

    rows: list[tuple[str, ...]] = []
    for name in NETWORKS:
        config = timm.get_pretrained_cfg(name)
        assert config is not None  # each of them has one
        with torch.device("meta"):
            model = build_network(name, num_classes=config.num_classes)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append((name, f"{parameters:,} ({config.num_classes} classes)", f"{config.input_size[-1]} px"))
    closing = (
        f"and {len(timm.list_models()) - len(NETWORKS):,} of timm (timm.list_models()), and torchvision's as "
        "torchvision/NAME (torchvision.models.list_models())"
    )
    return ("model", "parameters", "input"), rows, closing


def _datasets() -> Listing:
    from ..data.datasets import list_datasets

    rows: list[tuple[str, ...]] = [
        (data.name, f"{data.classes:,}", f"{data.train:,}" if data.train else "-", f"{data.val:,}", data.title)
        for data in list_datasets()
    ]
    return ("dataset", "classes", "training", "evaluation", "what it is"), rows, "more of each: skd data NAME"
