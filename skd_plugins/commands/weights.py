"""What ``skd weights`` does."""

from __future__ import annotations

import math
from pathlib import Path

from ..weights.download import download, is_downloaded, verify
from ..weights.manifest import WEIGHTS_FILE, all_releases, find_release
from ..weights.published import is_published, published_file


def show_list() -> None:
    """Prints the releases, what they reach, and which are in the cache."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for column in ("top-1 error, %", "ECE, %", "MB"):
        table.add_column(column, justify="right")
    for column in ("cached", "trained on"):
        table.add_column(column)
    for release in all_releases().values():
        top1, ece = (release.metrics.get(name, math.nan) for name in ("top1", "ece"))
        numbers = (100 * (1 - top1), 100 * ece, release.size / 1e6)
        here = "yes" if is_downloaded(release) else "no"
        data = release.data.partition(":")[0]
        table.add_row(release.name, *(f"{number:.2f}" for number in numbers), here, data)
    console = Console()
    console.print(table)
    console.print("and what timm and torchvision publish: timm/resnet152.tv_in1k, torchvision/resnet50.IMAGENET1K_V1")


def get(name: str) -> Path:
    """Downloads weights, if they are not in the cache; returns their safetensors (or torchvision's ``.pth``).

    Raises:
        SkdError: there are no such weights, or they could not be had.
    """
    if is_published(name):
        return published_file(name, download=True)
    return download(find_release(name)) / WEIGHTS_FILE


def check(name: str) -> Path:
    """Verifies weights that are in the cache; returns what `get` does.

    Raises:
        SkdError: they are not there, or damaged; a damaged file is deleted.
    """
    if is_published(name):
        return published_file(name, download=False)
    return verify(find_release(name)) / WEIGHTS_FILE
