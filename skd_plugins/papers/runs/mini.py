"""The mini scale: the same trainings with tiny networks on the embedded digits. It tests the pipeline, no claims."""

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL

from ... import evaluation
from ...data.beton.write import write_folder
from ...data.datasets.cifar100c import CORRUPTIONS, SEVERITIES
from ...data.datasets.digits import digits
from ...data.sources import Image, Source, write_hierarchy
from ...recipe import Recipe, replace

EPOCHS = 8
NOTICE = (
    "This is not a reproduction. The same pipeline ran with tiny networks for a few epochs on scikit-learn's digits, "
    "to show that it works; its numbers say nothing about the papers' and are not compared with them."
)
# A tiny network in place of each of the papers'.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "preact_resnet18_cifar": ("preact_resnet10_cifar", {"channels": [8, 16, 24, 32]}),
    "preact_resnet10_cifar": ("preact_resnet10_cifar", {"channels": [8, 8, 16, 16]}),
    "densenet121_cifar": ("densenet121_cifar", {"growth_rate": 4, "block_config": [1, 1, 1, 1]}),
    "densenet121": ("densenet121_cifar", {"growth_rate": 6, "block_config": [1, 1, 1, 1]}),
    "resnet18_cifar": ("resnet10t", {"channels": [16, 24, 32, 48]}),
    "resnet34_cifar": ("resnet10t", {"channels": [16, 32, 48, 64]}),
    "resnet18": ("resnet10t", {"channels": [16, 24, 32, 64]}),
    "resnet10": ("resnet10t", {"channels": [8, 8, 16, 16]}),
    "resnet50": ("resnet10t", {"channels": [16, 32, 32, 32]}),
    "resnet101": ("resnet10t", {"channels": [16, 32, 48, 48]}),
    "resnet152": ("resnet10t", {"channels": [16, 32, 64, 96]}),
    "resnext101_32x4d": ("resnet10t", {"channels": [16, 32, 64, 64]}),
}
# The digits that stand for each data set; they differ, so that no two sets have the same data.
_SEEDS = {"cifar100": 0, "tinyimagenet": 1, "cub200": 2, "dogs": 3, "mit67": 4, "mixed": 5, "imagenet-1k": 6}
_GROUPS = {"loops": "0689", "strokes": "147", "curves": "235"}
# What stands for each out-of-distribution set: which of the two photographs, and the side of the pieces in pixels.
_PIECES = {"lsun-resize": ("LSUN", 0, 64), "isun": ("iSUN", 1, 64), "dtd": ("DTD", 0, 32), "svhn": ("SVHN", 1, 32)}
_TRAIN, _VAL, _CORRUPTED, _OUTSIDE = 20, 30, 6, 200  # images a class


def mini_recipe(recipe: Recipe) -> Recipe:
    """The training with a tiny network and few epochs; the method, its arguments and mixup stay."""
    model, arguments = _MODELS[recipe.model]
    if "classifier" in recipe.model_args:
        arguments = {**arguments, "classifier": recipe.model_args["classifier"]}
    return replace(
        recipe,
        model=model,
        model_args=arguments,
        epochs=EPOCHS,
        milestones=tuple(round(EPOCHS * epoch / recipe.epochs) for epoch in recipe.milestones),
        batch_size=20,
        lr=0.05,
        clip_grad=1.0,  # otherwise the corners of the grids would diverge
        image_size=32,
        augment="shift",
        padding=2,
        hflip=0.0,
        crop_pct=1.0,
        precision="no",
        channels_last=False,
        eval_batch_size=100,
        validate_every=EPOCHS,
        save_every=1 if recipe.save_every else 0,
        workers=0,
        trackers=(),
    )


def write_mini(folder: Path, name: str) -> None:
    """Writes what stands for a data set."""
    if name == "cifar100c":
        _write_corrupted(folder)
    elif name in _PIECES:
        write_folder(_pieces_of_a_photograph(*_PIECES[name]), folder / "val")
    else:
        seed = _SEEDS[name]
        for train, count, half in ((True, _TRAIN, "train"), (False, _VAL, "val")):
            source = digits(train).subset(count, seed=seed)
            if name == "mixed":
                group_of = {digit: group for group, members in _GROUPS.items() for digit in members}
                source = dataclasses.replace(source, hierarchy=[group_of[digit] for digit in source.classes])
            write_folder(source, folder / half)
            write_hierarchy(source, folder)


def _pieces_of_a_photograph(name: str, which: int, side: int) -> Source:
    """32-pixel pieces of one of scikit-learn's photographs, cropped or scaled down."""
    from sklearn.datasets import load_sample_images  # slow to import

    photograph = load_sample_images().images[which]
    draw = np.random.default_rng([which, side])
    places = [tuple(int(draw.integers(size - side)) for size in photograph.shape[:2]) for _ in range(_OUTSIDE)]

    def load(index: int) -> Image:
        top, left = places[index]
        piece = PIL.fromarray(photograph[top : top + side, left : left + side])
        return np.asarray(piece.resize((32, 32), PIL.Resampling.BOX))

    targets, description = np.zeros(_OUTSIDE, dtype=np.int64), f"pieces of a photograph ({name})"
    return Source(description, classes=["outside"], targets=targets, load=load, name_of="piece {}".format)


def _write_corrupted(folder: Path) -> None:
    """Writes ``CORRUPTION/SEVERITY/val``."""
    source = digits(False).subset(_VAL, seed=_SEEDS["cifar100"]).subset(_CORRUPTED, seed=0)

    def load(index: int, name: str, severity: int) -> Image:
        return evaluation.corrupt(source.load(index), name, severity)

    for name, severity in product(CORRUPTIONS, SEVERITIES):
        description, load_one = f"{source.description}, {name} {severity}", partial(load, name=name, severity=severity)
        corrupted = dataclasses.replace(source, description=description, load=load_one)
        write_folder(corrupted, folder / name / str(severity) / "val")
