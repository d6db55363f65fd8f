"""``skd evaluate``: from weights and data to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ..common.environment import environment
from ..common.errors import SkdError
from ..data.find import find_split, resolve_data
from ..data.loader import Loader
from ..recipe import Recipe, replace
from ..training.build import evaluation_loader
from ..training.failures import explains
from ..weights import load_network
from ..weights.load import Which, weights_file
from ..weights.manifest import WEIGHTS_FILE
from .attacks import FGSM, PGD
from .predictions import predict
from .report import write_report

_EPS = 8 / 255


@explains()
def evaluate_weights(
    weights: str | Path,
    *,
    data: str | None = None,
    out: Path | None = None,
    which: Which = "last",
    ema: bool | None = None,
    batch_size: int = 256,
    workers: int = 4,
    skip_broken: bool = False,
    save_predictions: bool = False,
    attack: Literal["fgsm", "pgd"] | None = None,
    eps: float | None = None,
) -> Path:
    """Evaluates a trained network with the pre-processing that its card states.

    Args:
        weights: a run's folder, a checkpoint, exported weights, or a name, see `skd_plugins.weights.read_weights`.
        data: a data folder, or its validation half itself; None for the embedded digits, if the network is of them.
        out: folder of the report; by default ``evaluation`` beside the weights, for a name ``evaluation/NAME``. What
            is not a run's last checkpoint on clean images has a folder of its own that says so, such as
            ``evaluation-best-raw``, ``evaluation-epoch0020-fgsm-eps0.1``; beside ``NAME.safetensors`` it is
            ``evaluation-NAME``.
        which: which checkpoint of a run's folder.
        ema: see `skd_plugins.weights.read_weights`.
        batch_size: images a batch.
        workers: decoding threads or processes.
        skip_broken: leave undecodable images out and count them.
        save_predictions: write logits, features and targets to ``predictions.safetensors`` too (600 MB for ImageNet).
        attack: evaluate on adversarial images instead: `FGSM` or `PGD` as it is by default.
        eps: the attack's budget, in [0, 1] pixel units; 8/255 when None.

    Returns:
        the ``report.html``; ``metrics.json`` is beside it.

    Raises:
        SkdError: the weights or the data can't be used, or their classes differ.
    """
    if eps is not None and attack is None:
        raise SkdError(f"eps={eps:g} is the budget of an attack; choose one: --attack fgsm")
    model, card = load_network(weights, which=which, ema=ema)
    recipe = replace(_recipe(card), eval_batch_size=batch_size, workers=workers, skip_broken=skip_broken)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = evaluation_loader(recipe, _validation_half(recipe.dataset, data), device=device)
    _check_classes(loader, card, weights)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's overloads

    eps = _EPS if eps is None else eps
    perturb = {"fgsm": FGSM, "pgd": PGD}[attack](eps=eps, mean=loader.mean, std=loader.std) if attack else None
    predictions = predict(model, loader, perturb=perturb)
    raw = ["raw"] if ema is False and not card.get("ema") else []  # an exported average stays one
    attacked = [attack, *([] if eps == _EPS else [f"eps{eps:g}"])] if attack else []
    folder = out or _beside(weights, which, [*raw, *attacked])
    folder.mkdir(parents=True, exist_ok=True)
    if save_predictions:
        predictions.save(folder / "predictions.safetensors")
    info = {
        "network": card["model"], "weights": str(weights), "epoch": card.get("epoch"), "averaged": card.get("ema"),
        **({"method": recipe.method, "method_args": recipe.method_args} if card["recipe"] else {}),
        "data": str(loader.data.path), **({"attack": attack, "eps": eps} if attack else {}),
        "images left out": len(loader.skipped), **_flat(environment(), "command", "commit", "versions"),
    }  # fmt: skip
    return write_report(
        predictions, folder, title=recipe.name + (f" under {attack.upper()}" if attack else ""),
        classes=card["classes"] or loader.classes, info=info, images=loader.picture,
    )  # fmt: skip


def _recipe(card: dict[str, Any]) -> Recipe:
    """The recipe of a trained network; of one that others published, what its evaluation needs."""
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


def _beside(weights: str | Path, which: Which, marks: list[str]) -> Path:
    """``evaluation`` for a run as it is, which comparisons read; any other evaluation must not replace that one."""
    path = Path(weights)
    if not path.exists():  # a name; nothing is written to the cache
        return Path("-".join(["evaluation", *marks])) / path
    file = weights_file(path, which)
    if file.name not in ("last.pt", WEIGHTS_FILE):
        marks = [file.stem, *marks]
    return file.parent / "-".join(["evaluation", *marks])


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


def _check_classes(loader: Loader, card: dict[str, Any], weights: str | Path) -> None:
    if not loader.fits(card["num_classes"]):
        raise SkdError(
            f"{weights} was trained for {card['num_classes']} classes, {loader.data.path} has {loader.num_classes}"
        )
    # Others name ImageNet's classes in words, folders by their synsets; the order is the same.
    if card["recipe"] and card["classes"] and loader.classes and card["classes"] != loader.classes:
        raise SkdError(f"{weights} and {loader.data.path} name or order their classes differently")


def _flat(values: dict[str, Any], *names: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in names:
        value = values[name]
        flat |= {f"{key} version": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat
