"""From weights and data to a report."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import evaluation
from ..common.environment import environment
from ..common.errors import SkdError
from ..common.meter import tracked
from ..data.datasets.cifar100c import CORRUPTIONS, SEVERITIES
from ..data.find import find_split, resolve_data
from ..data.loader import Loader
from ..recipe import Recipe, replace
from ..training.failures import explains
from ..training.parts import evaluation_loader
from ..weights import load_network
from ..weights.load import weights_file
from ..weights.manifest import WEIGHTS_FILE
from .attacks import FGSM, PGD
from .metrics import top1
from .options import Options
from .predictions import predict
from .report import write_report

_EPS = 8 / 255


@explains()
def evaluate_weights(weights: str | Path, *, data: str | None = None, out: Path | None = None, **options: Any) -> Path:
    """``skd evaluate`` with the fields of `Options` as arguments; returns the path of the report."""
    how = Options(**options)
    if how.eps is not None and how.attack is None:
        raise SkdError(f"eps={how.eps:g} is the budget of an attack; choose one: --attack fgsm")
    if how.attack and how.corruptions:
        raise SkdError(f"--attack {how.attack} and --corruptions are two evaluations; give one at a time")
    if how.corruptions:
        evaluation.photographs()  # raises if they are missing
    model, card = load_network(weights, which=how.which, ema=False if how.raw else None)
    recipe = replace(_recipe(card), eval_batch_size=how.batch_size, workers=how.workers, skip_broken=how.skip_broken)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = evaluation_loader(recipe, _validation_half(recipe.dataset, data), device=device)
    if not loader.fits(card["num_classes"]):
        raise SkdError(
            f"{weights} was trained for {card['num_classes']} classes, {loader.data.path} has {loader.num_classes}"
        )
    # Published networks name ImageNet's classes in words, folders by synsets; the order is the same.
    if card["recipe"] and card["classes"] and loader.classes and card["classes"] != loader.classes:
        raise SkdError(f"{weights} and {loader.data.path} name or order their classes differently")
    folder = out or _beside(weights, how, raw=how.raw and not card.get("ema"))  # an exported average is not raw
    if out is None:
        _check_same_data(folder / "metrics.json", loader.data.path)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's overloads

    eps = _EPS if how.eps is None else how.eps
    attack = {"fgsm": FGSM, "pgd": PGD}[how.attack](eps=eps, mean=loader.mean, std=loader.std) if how.attack else None
    predictions = predict(model, loader, perturb=attack)
    corrupted = corrupted_top1(model, loader) if how.corruptions else None
    folder.mkdir(parents=True, exist_ok=True)
    if how.save_predictions:
        predictions.save(folder / "predictions.safetensors")
    made = environment()
    # Cards of older versions lack the default arguments.
    arguments = (card.get("environment") or {}).get("method_args", recipe.method_args)
    info = {
        "network": card["model"],
        "weights": str(weights),
        "epoch": card.get("epoch"),
        "averaged": card.get("ema"),
        **({"method": recipe.method, "method_args": arguments} if card["recipe"] else {}),
        "data": str(loader.data.path),
        **({"attack": how.attack, "eps": eps} if how.attack else {}),
        "images left out": len(loader.skipped),
        "command": made["command"],
        "commit": made["commit"],
        **{f"{name} version": version for name, version in made["versions"].items()},
    }
    return write_report(
        predictions,
        folder,
        title=recipe.name + (f" under {how.attack.upper()}" if how.attack else ""),
        classes=card["classes"] or loader.classes,
        info=info,
        images=loader.picture,
        corrupted=corrupted,
    )


def corrupted_top1(model: nn.Module, loader: Loader) -> dict[str, list[float]]:
    """Accuracy under each of the fifteen corruptions at severities 1 to 5, with a separate pass for each."""
    found: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    for name, severity in tracked(list(product(CORRUPTIONS, SEVERITIES)), "corruptions"):
        perturb = evaluation.Corruption(name=name, severity=severity, mean=loader.mean, std=loader.std)
        predictions = predict(model, loader, perturb=perturb)
        found[name].append(top1(predictions.logits, predictions.targets))
    return found


def _recipe(card: dict[str, Any]) -> Recipe:
    """The recipe of a trained network, or what the evaluation of a published one needs."""
    if card["recipe"]:
        return Recipe.from_json(card["recipe"])
    _, height, width = card["input_size"]
    if height != width:
        raise SkdError(f"{card['name']} takes images of {height} x {width} pixels; only square ones can be evaluated")
    return Recipe(
        name=card["name"], model=card["model"], num_classes=card["num_classes"], image_size=height,
        mean=tuple(card["mean"]), std=tuple(card["std"]), crop_pct=card["crop_pct"],
        interpolation=card["interpolation"],
    )  # fmt: skip


def _beside(weights: str | Path, how: Options, *, raw: bool) -> Path:
    """The default folder, such as ``evaluation-epoch0020-fgsm-eps0.1``, or ``evaluation-NAME`` for NAME.safetensors.

    Comparisons read ``evaluation``, which no evaluation of another checkpoint or perturbation may replace.
    """
    marks = ["raw"] if raw else []
    if how.attack:
        marks += [how.attack] if how.eps in (None, _EPS) else [how.attack, f"eps{how.eps:g}"]
    if how.corruptions:
        marks.append("corruptions")
    path = Path(weights)
    if not path.exists():  # a name; nothing is written to the cache
        return Path("-".join(["evaluation", *marks])) / path
    file = weights_file(path, how.which)
    if file.name not in ("last.pt", WEIGHTS_FILE):
        marks.insert(0, file.stem)
    return file.parent / "-".join(["evaluation", *marks])


def _check_same_data(metrics: Path, data: Path) -> None:
    """Raises if there are results of other data, which must not be replaced silently."""
    before = json.loads(metrics.read_text())["info"]["data"] if metrics.exists() else data
    if Path(before).resolve() != data.resolve():
        raise SkdError(f"{metrics.parent} has the evaluation on {before}; give another folder for {data}: --out")


def _validation_half(dataset: str, data: str | None) -> Path:
    folder = resolve_data(dataset, data)
    if folder.is_file():
        return folder
    try:
        return find_split(folder, train=False)
    except SkdError:
        if folder.is_dir() and any(child.is_dir() for child in folder.iterdir()):
            return folder  # the class folders themselves
        raise
