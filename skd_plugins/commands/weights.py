"""What ``skd weights`` does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import tyro

from ..common.errors import SkdError
from ..weights import export_detectron2, export_weights
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


def weights(
    action: tyro.conf.Positional[Literal["list", "download", "verify", "path"]],
    names: tyro.conf.Positional[tuple[str, ...]] = (),
) -> None:
    """List, download or verify released weights, or print where they are.

    The cache is $SKD_CACHE/weights, ~/.cache/skd_plugins/weights by default. SKD_WEIGHTS_MIRROR=URL asks URL/NAME/FILE
    for released weights instead of the addresses of the manifest. HF_HUB_OFFLINE=1 keeps released and timm's weights
    offline, not torchvision's. SKD_WEIGHTS_MANIFEST=FILE adds the releases of a manifest of your own.

    Args:
        action: list; download; verify, those in the cache; or path, printing the file's, downloaded if need be.
        names: of weights: see skd weights list; or timm/NAME.TAG, torchvision/NAME.WEIGHTS.
    """
    if action == "list":
        if names:
            raise SkdError("skd weights list takes no names")
        show_list()
        return
    if not names:
        raise SkdError(f"skd weights {action} needs a name; skd weights list prints them")
    for name in names:
        if action == "verify":
            print(f"{name}: verified, {check(name)}")
        else:
            print(get(name))


def export(
    checkpoint: tyro.conf.Positional[str],
    *,
    out: Path = Path("weights"),
    name: str | None = None,
    format: Literal["safetensors", "detectron2"] = "safetensors",
    which: Literal["last", "best"] = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Export a network as safetensors that load in plain timm and torchvision, or for detectron2's own ResNet.

    Args:
        checkpoint: a run's folder, a checkpoint, exported weights, or timm/NAME.TAG.
        out: folder.
        name: arch.tag; the recipe's name by default.
        format: safetensors with a card, or detectron2's .pkl with the settings that must go with it.
        which: which checkpoint of a run's folder.
        raw: the raw weights, where there is an average of them too.
    """
    if format == "safetensors":
        print(export_weights(checkpoint, out, name=name, which=which, ema=False if raw else None))
        return
    path = export_detectron2(checkpoint, out, name=name, which=which, ema=False if raw else None)
    print(f"{path}\n\n{path.with_suffix('.detectron2.yaml').read_text()}", end="")
