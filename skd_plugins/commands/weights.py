"""``skd export`` and ``skd weights``."""

import math
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from .. import weights
from ..common.errors import SkdError
from ..weights import Which
from ..weights.download import download, is_downloaded, verify
from ..weights.manifest import WEIGHTS_FILE, all_releases, find_release


def export(
    checkpoint: tyro.conf.Positional[str],
    *,
    out: Path = Path("weights"),
    name: str | None = None,
    format: Literal["safetensors", "detectron2"] = "safetensors",
    which: Which = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Export a network as safetensors that load in plain timm and torchvision, or for detectron2's own ResNet.

    Args:
        checkpoint: a run's folder, a checkpoint, exported weights, or timm/NAME.TAG.
        out: folder for the files.
        name: arch.tag; the recipe's name by default.
        format: safetensors with a card, or detectron2's .pkl with the settings that must go with it.
        which: which checkpoint of a run's folder.
        raw: the raw weights, even if the run has averaged ones too.
    """
    write = weights.export_weights if format == "safetensors" else weights.export_detectron2
    path = write(checkpoint, out, name=name, which=which, ema=False if raw else None)
    print(path)
    if format == "detectron2":
        print(f"\n{path.with_suffix('.detectron2.yaml').read_text()}", end="")


def released(
    action: tyro.conf.Positional[Literal["list", "download", "verify", "path"]],
    names: tyro.conf.Positional[tuple[str, ...]] = (),
) -> None:
    """List, download or verify released weights, or print where they are.

    They are kept in $SKD_CACHE/weights, by default ~/.cache/skd_plugins/weights. SKD_WEIGHTS_MANIFEST=FILE adds the
    releases of your own manifest. HF_ENDPOINT=URL replaces the Hugging Face Hub by a mirror. HF_HUB_OFFLINE=1 forbids
    the network for released weights and timm's, but not for torchvision's.

    Args:
        action: list all; download; verify those in the cache; or print a file's path, after downloading it if needed.
        names: of weights (see skd weights list), or timm/NAME.TAG, torchvision/NAME.WEIGHTS.
    """
    if action == "list":
        if names:
            raise SkdError("skd weights list takes no names")
        _print_list()
    elif not names:
        raise SkdError(f"skd weights {action} needs a name; skd weights list prints them")
    for name in names:
        if weights.is_published(name):
            path = weights.published_file(name, download=action != "verify")
        else:
            path = (verify if action == "verify" else download)(find_release(name)) / WEIGHTS_FILE
        print(f"{name}: verified, {path}" if action == "verify" else path)


def _print_list() -> None:
    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for column in ("top-1 error, %", "ECE, %", "MB"):
        table.add_column(column, justify="right")
    for column in ("cached", "trained on"):
        table.add_column(column)
    for release in all_releases().values():
        top1, ece = (release.metrics.get(name, math.nan) for name in ("top1", "ece"))
        numbers = (100 * (1 - top1), 100 * ece, sum(file.size for file in release.files) / 1e6)
        cached = "yes" if is_downloaded(release) else "no"
        table.add_row(release.name, *(f"{number:.2f}" for number in numbers), cached, release.data.partition(":")[0])
    console = Console()
    console.print(table)
    console.print("and what timm and torchvision publish: timm/resnet152.tv_in1k, torchvision/resnet50.IMAGENET1K_V1")
