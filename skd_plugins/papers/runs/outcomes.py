"""What is measured of a network: each evaluation gives named values, fractions where they are shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...common.errors import SkdError
from ...common.meter import tracked
from ...data.datasets.cifar100c import CORRUPTIONS, SEVERITIES
from ...data.find import find_split
from ...data.loader import Loader
from ...evaluation.attacks import FGSM
from ...evaluation.corruptions import corruption_accuracy
from ...evaluation.metrics import top1
from ...evaluation.ood import hold_out, odin_scores, ood_metrics, tune_odin
from ...evaluation.predictions import predict
from ...evaluation.report import summarize
from ...recipe import Recipe, replace
from ...training.build import build_task, evaluation_loader
from ...training.process import seed_step
from ...weights import load_network
from ..measures.gradients import mean_assumptions, mean_kl_gradients
from .inputs import OUTSIDE, Datasets

EPOCHS_PRINTED = 200  # Table 8 of SD-Dropout counts in these
_LARGEST_KEPT = 10_000_000  # logits: ImageNet's 50 million would take 600 MB a run, and no figure is of them
_LEGACY_EPS, _PIXEL_EPS = 0.2, 8 / 255


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network and what it is evaluated on.

    Attributes:
        run: the folder that `train` wrote; a detector's OUTPUT_DIR.
        folder: the job's; what is large goes there.
        recipe: of the run.
        data: what it was trained on.
        datasets: of the scale.
    """

    run: Path
    folder: Path
    recipe: Recipe
    data: Path
    datasets: Datasets

    @property
    def device(self) -> torch.device:
        """The present one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def network(self, checkpoint: str = "last.pt") -> nn.Module:
        """The network of a checkpoint, on the device.

        Raises:
            SkdError: the checkpoint is not there.
        """
        path = self.run / checkpoint
        if not path.is_file():
            raise SkdError(f"{path} does not exist; the run was made without it, remove {self.folder} to train again")
        return load_network(path)[0].to(self.device)

    def loader(self, folder: Path, batch_size: int | None = None) -> Loader:
        """The evaluation half of a data folder, with the recipe's pre-processing."""
        recipe = self.recipe if batch_size is None else replace(self.recipe, eval_batch_size=batch_size)
        return evaluation_loader(recipe, find_split(folder, False), device=self.device)

    @property
    def normalisation(self) -> dict[str, tuple[float, float, float]]:
        """What perturbations need."""
        return {"mean": self.recipe.mean, "std": self.recipe.std}

    @property
    def mini(self) -> bool:
        """Whether it is the mini scale."""
        return self.datasets.scale == "mini"


Values = dict[str, Any]


def predictions_file(folder: Path) -> Path:
    """Where `clean` keeps logits and features of a job."""
    return folder / "predictions.safetensors"


def clean(subject: Subject) -> Values:
    """All metrics on the test images; keeps the predictions for figures, unless they are ImageNet's."""
    loader = subject.loader(subject.data)
    predictions = predict(subject.network(), loader)
    if predictions.logits.numel() <= _LARGEST_KEPT:
        predictions.save(predictions_file(subject.folder))
    return {**summarize(predictions), "classes": loader.classes}


def fgsm(subject: Subject) -> Values:
    """Accuracy under the attack of SD-Dropout's authors, and under FGSM in pixel units."""
    model, loader = subject.network(), subject.loader(subject.data)
    values = {}
    for name, eps, legacy in (("top1_legacy", _LEGACY_EPS, True), ("top1_pixel", _PIXEL_EPS, False)):
        attacked = predict(model, loader, perturb=FGSM(eps=eps, legacy=legacy, **subject.normalisation))
        values[name] = top1(attacked.logits, attacked.targets)
    return values | {"eps_legacy": _LEGACY_EPS, "eps_pixel": _PIXEL_EPS}


def corruptions(subject: Subject) -> Values:
    """Accuracy under each corruption, the mean over its severities, and the mean of all."""
    model = subject.network()
    root = subject.datasets.corrupted()
    accuracy: dict[str, list[float]] = {}
    for name, severity in tracked(list(product(CORRUPTIONS, SEVERITIES)), "corruptions"):
        predictions = predict(model, subject.loader(root / name / str(severity)))
        accuracy.setdefault(name, []).append(top1(predictions.logits, predictions.targets))
    return dict(corruption_accuracy(accuracy))


def ood(subject: Subject) -> Values:
    """ODIN tuned on held-out images, and its metrics on the others, for each set and their plain mean."""
    model = subject.network()
    held, grid = (60, {"temperatures": (1.0, 1000.0), "eps": (0.0, 0.002)}) if subject.mini else (1000, {})
    inside = subject.loader(subject.data)
    inside_held, inside_mask = hold_out(inside, held)
    values: Values = {}
    metrics: list[dict[str, float]] = []
    for name in OUTSIDE:
        outside = subject.loader(subject.datasets.outside(name))
        outside_held, outside_mask = hold_out(outside, held)
        odin, _ = tune_odin(model, inside_held, outside_held, **subject.normalisation, **grid)
        scores = [
            odin_scores(model, loader, odin)[~mask] for loader, mask in ((inside, inside_mask), (outside, outside_mask))
        ]
        metrics.append(ood_metrics(*scores))
        values |= {f"{name}/{key}": value for key, value in metrics[-1].items()}
        values |= {f"{name}/temperature": odin.temperature, f"{name}/eps": odin.eps}
    return values | {f"average/{key}": float(np.mean([one[key] for one in metrics])) for key in metrics[0]}


def gradients(subject: Subject) -> Values:
    """The two directions' gradients at the kept checkpoints; the assumptions at the beginning, half-way and the end."""
    recipe = subject.recipe
    if not recipe.save_every:
        raise SkdError(f"{subject.run} has no checkpoints of epochs; its recipe needs save_every")
    arguments = {name: recipe.method_args[name] for name in ("temperature", "drop_rate") if name in recipe.method_args}
    few, many = (2, 2) if subject.mini else (8, 4)
    values: Values = {}
    curves: list[dict[str, float]] = []
    halves = {0, recipe.epochs // 2, recipe.epochs}
    for epoch in sorted({*range(0, recipe.epochs + 1, recipe.save_every), *halves}):
        model = subject.network(f"epoch{epoch:04d}.pt") if epoch else _untrained(subject)
        pulls = mean_kl_gradients(model, subject.loader(subject.data), batches=few, **arguments)
        printed = round(EPOCHS_PRINTED * epoch / recipe.epochs)
        curves.append({"epoch": epoch, **vars(pulls)})
        if epoch in halves:
            found = mean_assumptions(model, subject.loader(subject.data, 8), batches=many, of="classifier", **arguments)
            values |= {f"epoch{printed}/{key}": value for key, value in vars(found).items()}
    return values | {"curves": curves}


def _untrained(subject: Subject) -> nn.Module:
    """The network that training starts from."""
    recipe = subject.recipe
    classes = recipe.num_classes or subject.loader(subject.data).num_classes
    seed_step(recipe.seed, 0, 0)
    return build_task(recipe, classes, subject.device).method.model


def detection(subject: Subject) -> Values:
    """COCO's AP of a detector, as ``detection/train_net.py`` found it."""
    box = json.loads((subject.run / "results.json").read_text())["bbox"]
    return {"ap": box["AP"] / 100, "ap50": box["AP50"] / 100}


EVALUATIONS: Mapping[str, Callable[[Subject], Values]] = {
    function.__name__: function for function in (clean, fgsm, corruptions, ood, gradients, detection)
}
