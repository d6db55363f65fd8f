"""What is measured on a trained network: each evaluation returns named values; shares are fractions."""

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
from ...evaluation.metrics import top1
from ...evaluation.ood import odin_metrics
from ...evaluation.predictions import predict
from ...evaluation.report import corruption_accuracy, summarize
from ...recipe import Recipe, replace
from ...training.parts import build_task, evaluation_loader
from ...training.process import seed_step
from ...weights import load_network
from .gradients import DropoutPair, check_assumptions, kl_gradients, mean_over
from .inputs import OUTSIDE, Datasets

EPOCHS_PRINTED = 200  # the epochs in SD-Dropout's Table 8
PREDICTIONS = "predictions.safetensors"  # in the folder of a job: logits and features of the test images
_LARGEST_KEPT = 10_000_000  # logits: ImageNet's 50 million would take 600 MB per run, and no figure needs them

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network and what it is evaluated on."""

    run: Path  # the folder that `train` wrote; a detector's OUTPUT_DIR
    folder: Path  # the job's; large files go there
    recipe: Recipe
    data: Path  # what it was trained on
    datasets: Datasets

    @property
    def device(self) -> torch.device:
        """The first GPU, or the CPU if there is none."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def network(self, checkpoint: str = "last.pt") -> nn.Module:
        """The network of a checkpoint, on the device."""
        path = self.run / checkpoint
        if not path.is_file():
            raise SkdError(f"{path} does not exist; the run was made without it, remove {self.folder} to train again")
        return load_network(path)[0].to(self.device)

    def untrained(self) -> nn.Module:
        """The network that training started from."""
        classes = self.recipe.num_classes or self.loader(self.data).num_classes
        seed_step(self.recipe.seed, 0, 0)
        return build_task(self.recipe, classes, self.device).method.model

    def loader(self, folder: Path, batch_size: int | None = None) -> Loader:
        """The evaluation half of a data folder, with the recipe's pre-processing."""
        recipe = self.recipe if batch_size is None else replace(self.recipe, eval_batch_size=batch_size)
        return evaluation_loader(recipe, find_split(folder, False), device=self.device)


def clean(subject: Subject) -> Values:
    """All metrics on the test images; keeps the predictions for figures, unless they are ImageNet's."""
    loader = subject.loader(subject.data)
    predictions = predict(subject.network(), loader)
    if predictions.logits.numel() <= _LARGEST_KEPT:
        predictions.save(subject.folder / PREDICTIONS)
    return {**summarize(predictions), "classes": loader.classes}


def fgsm(subject: Subject) -> Values:
    """Accuracy under the attack of SD-Dropout's authors, and under FGSM in pixel units."""
    model, loader = subject.network(), subject.loader(subject.data)
    values: Values = {"eps_legacy": 0.2, "eps_pixel": 8 / 255}
    for unit in ("legacy", "pixel"):
        attack = FGSM(eps=values[f"eps_{unit}"], legacy=unit == "legacy", mean=loader.mean, std=loader.std)
        attacked = predict(model, loader, perturb=attack)
        values[f"top1_{unit}"] = top1(attacked.logits, attacked.targets)
    return values


def corruptions(subject: Subject) -> Values:
    """Accuracy under each corruption, averaged over its severities, and the mean over all corruptions."""
    model = subject.network()
    root = subject.datasets.existing("cifar100c")
    accuracy: dict[str, list[float]] = {}
    for name, severity in tracked(list(product(CORRUPTIONS, SEVERITIES)), "corruptions"):
        predictions = predict(model, subject.loader(root / name / str(severity)))
        accuracy.setdefault(name, []).append(top1(predictions.logits, predictions.targets))
    return dict(corruption_accuracy(accuracy))


def ood(subject: Subject) -> Values:
    """ODIN tuned on held-out images; its metrics on the others, for each set and as their plain mean."""
    model = subject.network()
    held = 1000
    grid: dict[str, tuple[float, ...]] = {}
    if subject.datasets.scale == "mini":
        held, grid = 60, {"temperatures": (1.0, 1000.0), "eps": (0.0, 0.002)}
    inside = subject.loader(subject.data)
    values: Values = {}
    metrics: list[dict[str, float]] = []
    for name, folder in OUTSIDE.items():
        outside = subject.loader(subject.datasets.existing(folder))
        found, odin = odin_metrics(model, inside, outside, held, **grid)
        metrics.append(found)
        values |= {f"{name}/{key}": value for key, value in found.items()}
        values |= {f"{name}/temperature": odin.temperature, f"{name}/eps": odin.eps}
    return values | {f"average/{key}": float(np.mean([one[key] for one in metrics])) for key in metrics[0]}


def gradients(subject: Subject) -> Values:
    """The gradients of both directions at the kept checkpoints; the assumptions at the start, half-way and the end."""
    recipe = subject.recipe
    if not recipe.save_every:
        raise SkdError(f"{subject.run} has no checkpoints of epochs; its recipe needs save_every")
    arguments = {name: recipe.method_args[name] for name in ("temperature", "drop_rate") if name in recipe.method_args}
    few, many = (2, 2) if subject.datasets.scale == "mini" else (8, 4)
    values: Values = {}
    curves: list[dict[str, float]] = []
    halves = {0, recipe.epochs // 2, recipe.epochs}
    for epoch in sorted({*range(0, recipe.epochs + 1, recipe.save_every), *halves}):
        model = subject.network(f"epoch{epoch:04d}.pt") if epoch else subject.untrained()
        pulls = mean_over(kl_gradients, model, subject.loader(subject.data), DropoutPair(**arguments), few)
        curves.append({"epoch": epoch, **pulls})
        if epoch in halves:
            pair = DropoutPair(**arguments, of="classifier")
            found = mean_over(check_assumptions, model, subject.loader(subject.data, 8), pair, many)
            printed = round(EPOCHS_PRINTED * epoch / recipe.epochs)
            values |= {f"epoch{printed}/{key}": value for key, value in found.items()}
    return values | {"curves": curves}


def detection(subject: Subject) -> Values:
    """COCO's AP of a detector, as ``detection/train_net.py`` found it."""
    box = json.loads((subject.run / "results.json").read_text())["bbox"]
    return {"ap": box["AP"] / 100, "ap50": box["AP50"] / 100}


EVALUATIONS: Mapping[str, Callable[[Subject], Values]] = {
    function.__name__: function for function in (clean, fgsm, corruptions, ood, gradients, detection)
}
