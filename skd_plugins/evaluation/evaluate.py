"""From weights and data to a report."""

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import evaluation
from ..common.environment import environment
from ..common.errors import SkdError
from ..common.meter import tracked
from ..common.run_files import read_metrics
from ..data.datasets.cifar100c import CORRUPTIONS, SEVERITIES
from ..data.find import evaluation_half
from ..data.loader import Loader
from ..data.sources import HIERARCHY, read_hierarchy
from ..networks.create import check_image_size
from ..recipe import Recipe, replace
from ..training.failures import explains
from ..training.parts import evaluation_loader
from ..training.project import recipe_in
from ..weights import load_network
from ..weights.load import weights_file
from ..weights.manifest import WEIGHTS_FILE
from .attacks import FGSM, PGD
from .command import Options
from .metrics import top1
from .ood import ODIN, max_softmax, odin_metrics, odin_scores, ood_metrics
from .predictions import Predictions, predict
from .report import Extras, write_report
from .significance import temperature_scaled

_EPS = 8 / 255


@explains()
def evaluate_weights(weights: str | Path, *, data: str | None = None, out: Path | None = None, **options: Any) -> Path:
    """``skd evaluate`` with the fields of `Options` as arguments; returns the path of the report."""
    how = Options(**options)
    _check(how)
    wanted = recipe_in(how.recipe) if how.recipe else None
    model, card = load_network(weights, which=how.which, ema=False if how.raw else None, recipe=wanted)
    recipe = _recipe(card, wanted)
    if how.image_size is not None:
        recipe = replace(recipe, image_size=how.image_size)
        check_image_size(model, how.image_size)
    recipe = replace(recipe, eval_batch_size=how.batch_size, workers=how.workers, skip_broken=how.skip_broken)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = evaluation_half(recipe.dataset, data)
    others = {name: evaluation_half("", name) for name in (*how.ood, how.temperature_from) if name}
    for name, other in others.items():
        if other.resolve() == path.resolve():
            raise SkdError(f"{name} is what is evaluated; give other images to --ood and --temperature-from")
    loader = evaluation_loader(recipe, path, device=device)
    _check_classes(loader, weights, card)
    held = None
    if how.temperature_from:
        held = evaluation_loader(recipe, others[how.temperature_from], device=device)
        _check_classes(held, weights, card)
    outside = {name: evaluation_loader(recipe, others[name], device=device) for name in how.ood}
    superclasses = _superclasses(loader)
    sources = {
        "data": str(path),
        **({"out of distribution": [str(others[name]) for name in how.ood]} if how.ood else {}),
        **({"temperature from": str(held.data.path)} if held else {}),
    }
    folder = out or _beside(weights, how, raw=how.raw and not card.get("ema"))  # an exported average is not raw
    if out is None:
        _check_same_data(folder / "metrics.json", sources)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's overloads

    eps = _EPS if how.eps is None else how.eps
    attack = {"fgsm": FGSM, "pgd": PGD}[how.attack](eps=eps, mean=loader.mean, std=loader.std) if how.attack else None
    predictions = predict(model, loader, perturb=attack, flip=how.flip)
    extras = Extras(
        corrupted=corrupted_top1(model, loader, flip=how.flip) if how.corruptions else None,
        superclasses=superclasses,
        scaled=temperature_scaled(predict(model, held, flip=how.flip), predictions) if held else {},
        ood={name: _detection(model, loader, predictions, other, odin=how.odin) for name, other in outside.items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    if how.save_predictions:
        predictions.save(folder / "predictions.safetensors")
    attacked = {"attack": how.attack, "eps": eps} if how.attack else {}
    seen = {"image size": recipe.image_size, **({"flip": True} if how.flip else {})}
    return write_report(
        predictions,
        folder,
        title=recipe.name + (f" under {how.attack.upper()}" if how.attack else ""),
        classes=card["classes"] or loader.classes,
        info=_info(card, weights, recipe, sources | attacked | seen | {"images left out": len(loader.skipped)}),
        images=loader.picture,
        extras=extras,
    )


def _check(how: Options) -> None:
    """Refuses options that do not go together."""
    if how.eps is not None and how.attack is None:
        raise SkdError(f"eps={how.eps:g} is the budget of an attack; choose one: --attack fgsm")
    if how.odin and not how.ood:
        raise SkdError("--odin is a score for images of no known class; give some: --ood DATA")
    for option in ("corruptions", "ood", "temperature_from"):
        if how.attack and getattr(how, option):
            raise SkdError(
                f"--attack {how.attack} and --{option.replace('_', '-')} are two evaluations; give one at a time"
            )
    if how.flip and (how.attack or how.ood):
        raise SkdError("--flip averages two predictions, which attacks and scores of --ood do not know; leave one out")
    if how.corruptions:
        evaluation.photographs()  # raises if they are missing


def _check_classes(loader: Loader, weights: str | Path, card: dict[str, Any]) -> None:
    if not loader.fits(card["num_classes"]):
        raise SkdError(
            f"{weights} was trained for {card['num_classes']} classes, {loader.data.path} has {loader.num_classes}"
        )
    # Published networks name ImageNet's classes in words, folders by synsets; the order is the same.
    if card["recipe"] and card["classes"] and loader.classes and card["classes"] != loader.classes:
        raise SkdError(f"{weights} and {loader.data.path} name or order their classes differently")
    if not card["classes"] and loader.classes and loader.classes != sorted(loader.classes):
        print(
            f"note: {weights} does not name its classes. Those of {loader.data.path} are in timm's order, but "
            f"torchvision's ImageFolder has {', '.join(sorted(loader.classes)[:3])}, ...: a network trained with it "
            "would get wrong results",
            file=sys.stderr,
        )


def _superclasses(loader: Loader) -> list[str] | None:
    """The superclass of each class, if there is a ``hierarchy.json`` beside the data."""
    folder = loader.data.path.parent
    if not loader.classes or not (folder / HIERARCHY).exists():
        return None
    table = read_hierarchy(folder)
    for name in loader.classes:
        if name not in table:
            raise SkdError(f"{folder / HIERARCHY} has no superclass for the class {name}; add it")
    return [table[name] for name in loader.classes]


def _detection(
    model: nn.Module, inside: Loader, predictions: Predictions, outside: Loader, *, odin: bool
) -> dict[str, Any]:
    """How well the maximum softmax probability, and ODIN's score, tell the images of `outside` from the evaluated."""
    plain = ODIN(eps=0.0, temperature=1.0, mean=inside.mean, std=inside.std)  # that is MSP
    scores = odin_scores(model, outside, plain)
    found: dict[str, Any] = {"images": len(scores), "msp": ood_metrics(max_softmax(predictions.logits), scores)}
    if odin:
        count = min(1000, len(predictions) // 2, len(scores) // 2)
        metrics, tuned = odin_metrics(model, inside, outside, count)
        found["odin"] = metrics | {"temperature": tuned.temperature, "eps": tuned.eps, "held_out": count}
    return found


def _info(card: dict[str, Any], weights: str | Path, recipe: Recipe, how: Mapping[str, Any]) -> dict[str, Any]:
    """What was evaluated, how, and with what versions."""
    made = environment()
    # Cards of older versions lack the default arguments.
    arguments = (card.get("environment") or {}).get("method_args", recipe.method_args)
    return {
        "network": card["model"],
        "weights": str(weights),
        "epoch": card.get("epoch"),
        "averaged": card.get("ema"),
        **({"method": recipe.method, "method_args": arguments} if card["recipe"] else {}),
        **({"probabilities": "softmax of logits that binary cross-entropy trained"} if recipe.loss == "bce" else {}),
        **how,
        "command": made["command"],
        "commit": made["commit"],
        **{f"{name} version": version for name, version in made["versions"].items()},
    }


def corrupted_top1(model: nn.Module, loader: Loader, *, flip: bool = False) -> dict[str, list[float]]:
    """Accuracy under each of the fifteen corruptions at severities 1 to 5, with a separate pass for each."""
    found: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    for name, severity in tracked(list(product(CORRUPTIONS, SEVERITIES)), "corruptions"):
        perturb = evaluation.Corruption(name=name, severity=severity, mean=loader.mean, std=loader.std)
        predictions = predict(model, loader, perturb=perturb, flip=flip)
        found[name].append(top1(predictions.logits, predictions.targets))
    return found


def _recipe(card: dict[str, Any], wanted: Recipe | None) -> Recipe:
    """The recipe of a trained network, or what the evaluation of another one needs."""
    if wanted:
        return replace(wanted, name=card["name"])
    if card["recipe"]:
        return Recipe.from_json(card["recipe"], where="the card's recipe")
    missing = [key for key in ("input_size", "mean", "std", "crop_pct", "interpolation") if key not in card]
    if missing:
        raise SkdError(f"the card of {card['name']} does not say {', '.join(missing)}, which an evaluation needs")
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
    if how.image_size:
        marks.append(f"{how.image_size}px")
    if how.flip:
        marks.append("flip")
    if how.attack:
        marks += [how.attack] if how.eps in (None, _EPS) else [how.attack, f"eps{how.eps:g}"]
    if how.corruptions:
        marks.append("corruptions")
    if how.ood:
        marks.append("odin" if how.odin else "ood")
    if how.temperature_from:
        marks.append("scaled")
    path = Path(weights)
    if not path.exists():  # a name; nothing is written to the cache
        return Path("-".join(["evaluation", *marks])) / path
    file = weights_file(path, how.which)
    if file.name not in ("last.pt", WEIGHTS_FILE):
        marks.insert(0, file.stem)
    return file.parent / "-".join(["evaluation", *marks])


def _check_same_data(metrics: Path, sources: Mapping[str, Any]) -> None:
    """Raises if there are results of other data, which must not be replaced silently."""
    before = read_metrics(metrics)["info"] if metrics.exists() else sources
    for key, new in sources.items():
        old = before.get(key, new)
        paths = [[Path(path).resolve() for path in ([each] if isinstance(each, str) else each)] for each in (old, new)]
        if paths[0] != paths[1]:
            raise SkdError(f"{metrics.parent} has the evaluation on {old}; give another folder for {new}: --out")
