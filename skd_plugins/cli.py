"""The ``skd`` command. What a subcommand needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from .errors import SkdError, fail


def write(
    source: tyro.conf.Positional[str],
    *,
    out: Path,
    root: Path | None = None,
    split: Literal["train", "val", "both"] = "both",
    per_class: int | None = None,
    max_resolution: int | None = None,
    jpeg_quality: int = 90,
    raw_share: float = 0.0,
    workers: int = 0,
    folder: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Write train.beton and val.beton (FFCV) from an image folder, CIFAR-100 or the embedded digits.

    Args:
        source: a folder with train/ and val/ inside, one subfolder a class; or cifar100; or digits.
        out: the folder to write to.
        root: where CIFAR-100's archive is, or is downloaded to.
        split: which half to write.
        per_class: take only so many training images of each class.
        max_resolution: scale images with a longer side (pixels) down to it.
        jpeg_quality: 1 to 100.
        raw_share: share of the images, 0 to 1, stored as pixels: faster to read, larger.
        workers: processes, 0 for one a core.
        folder: write PNG folders instead, for training without FFCV.
    """
    from .data.sources import open_source
    from .data.write import write_beton, write_folder

    for train in (True, False):
        half = "train" if train else "val"
        if split not in (half, "both"):
            continue
        opened = open_source(source, train, root=root)
        if train and per_class is not None:
            opened = opened.subset(per_class, seed=0)
        print(f"{half}: {len(opened.targets)} images, {len(opened.classes)} classes, from {opened.description}")
        if folder:
            path = write_folder(opened, out / half)
            print(f"wrote {path}")
        else:
            path = write_beton(
                opened, out / f"{half}.beton", max_resolution=max_resolution, jpeg_quality=jpeg_quality,
                raw_share=raw_share, workers=workers,
            )  # fmt: skip
            print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), verified")


def evaluate(
    weights: tyro.conf.Positional[Path],
    *,
    data: str | None = None,
    out: Path | None = None,
    which: Literal["last", "best"] = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
    batch_size: int = 256,
    workers: int = 4,
    skip_broken: tyro.conf.FlagCreatePairsOff[bool] = False,
    save_predictions: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Evaluate a run, a checkpoint or exported weights: metrics.json and a report.html.

    Args:
        weights: a run's folder, a checkpoint (.pt), or exported weights (.safetensors).
        data: folder with val.beton or val/, or that file or folder itself; the embedded digits by default if the
            network was trained on them.
        out: where the report goes; by default beside the weights, in a folder "evaluation".
        which: which checkpoint of a run's folder.
        raw: the raw weights, where there is an average of them too.
        batch_size: images a batch.
        workers: decoding threads or processes.
        skip_broken: leave undecodable images out and count them.
        save_predictions: write logits, features and targets too (600 MB for ImageNet).
    """
    from .evaluation.evaluate import evaluate_weights

    report = evaluate_weights(
        weights, data=data, out=out, which=which, ema=False if raw else None, batch_size=batch_size, workers=workers,
        skip_broken=skip_broken, save_predictions=save_predictions,
    )  # fmt: skip
    print(f"report: {report}")


def compare(runs: tyro.conf.Positional[tuple[Path, ...]], *, out: Path = Path("compare.html")) -> None:
    """Put evaluated runs side by side: a table here and a page with their curves.

    Args:
        runs: folders that skd evaluate wrote to, or runs that it evaluated.
        out: the page.
    """
    from .evaluation import compare as compare_runs

    if not runs:
        raise SkdError("compare needs at least one run")
    print(f"page: {compare_runs(list(runs), out)}")


def export(
    checkpoint: tyro.conf.Positional[Path],
    *,
    out: Path = Path("weights"),
    name: str | None = None,
    which: Literal["last", "best"] = "last",
    raw: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Export a run's network as safetensors with a card; it loads in plain timm and torchvision.

    Args:
        checkpoint: a run's folder or a checkpoint.
        out: folder.
        name: arch.tag; the recipe's name by default.
        which: which checkpoint of a run's folder.
        raw: the raw weights, where there is an average of them too.
    """
    from .weights import export_weights

    print(export_weights(checkpoint, out, name=name, which=which, ema=False if raw else None))


def timm_train(
    arguments: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    timm: Path,
    method: str,
    method_args: tuple[str, ...] = (),
) -> None:
    """Run timm's own, unmodified train.py with a method injected. timm's arguments follow after --.

    Example: skd timm-train --timm train.py --method sd_dropout --method-args weight=0.1 -- --data-dir DATA

    Args:
        arguments: timm's arguments, after --.
        timm: path of timm's train.py (from timm's repository; it is not in the package).
        method: see: skd list methods.
        method_args: name=value, for the method.
    """
    from .timm_train import timm_train as run

    run(timm, method, method_args, arguments)


def list_names(what: tyro.conf.Positional[Literal["methods"]] = "methods") -> None:
    """List what there is to choose from.

    Args:
        what: methods, with their source, segments, training-only parameters and a step's cost.
    """
    from .methods.table import print_methods

    print_methods()


def demo(*, out: Path = Path("runs/demo"), seeds: int = 3) -> None:
    """Train cross-entropy, CS-KD and SD-Dropout on the embedded digits, evaluate, export, and print one table.

    Args:
        out: where everything goes.
        seeds: runs of each recipe.
    """
    from .demo import run_demo

    run_demo(out, seeds)


COMMANDS: dict[str, Callable[..., Any]] = {
    "write": write,
    "evaluate": evaluate,
    "compare": compare,
    "export": export,
    "timm-train": timm_train,
    "list": list_names,
    "demo": demo,
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``skd``."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="skd",
            args=arguments,
            description="Self-knowledge distillation for timm, FFCV and detectron2.",
        )
    except SkdError as error:
        fail(error)


if __name__ == "__main__":
    main()
