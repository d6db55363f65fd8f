"""What a release says about itself: timm's ``config.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from ..common.errors import SkdError
from ..weights.load import load_into

DATA = {
    "digits": "scikit-learn's digits: 8 x 8 pixels, 200 to train and 797 to validate, from UCI's Optical Recognition "
    "of Handwritten Digits (Alpaydin and Kaynak, 1998; CC BY 4.0)",
    "imagenet-1k": "ImageNet-1k, ILSVRC 2012 (non-commercial research; see image-net.org)",
}
_PERCENT = ("top1", "top5", "ece", "ece_10", "recall_at_1")


def timm_config(model: nn.Module, card: dict[str, Any]) -> dict[str, Any]:
    """The content of ``config.json``: with it, timm makes the network from ``local-dir:`` and ``hf-hub:``.

    Our card is its part ``skd``. A network that timm has not (a torchvision one, another classifier) gets no
    ``architecture``, so that timm refuses it instead of making another network.
    """
    own = getattr(_in_timm(model, card), "pretrained_cfg", None)
    names = {"label_names": card["classes"]} if card["classes"] else {}
    if own is None:
        return {"num_classes": card["num_classes"], **names, "skd": card}
    pixels = {key: card[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation", "num_classes")}
    # Where the first convolution and the classifier are: timm needs it for another number of channels or classes.
    places = {key: own[key] for key in ("first_conv", "classifier") if key in own}
    return {
        "architecture": _arch(card),
        "num_classes": card["num_classes"],
        "model_args": card["model_args"],
        **names,
        "pretrained_cfg": {**pixels, "fixed_input_size": own.get("fixed_input_size", False), **places},
        "skd": card,
    }


def _arch(card: dict[str, Any]) -> str:
    name: str = card["model"]
    return name.removeprefix("torchvision/").partition(".")[0]


def _in_timm(model: nn.Module, card: dict[str, Any]) -> nn.Module | None:
    """timm's network with these weights, if it computes the same."""
    import timm

    try:
        twin: nn.Module = timm.create_model(_arch(card), num_classes=card["num_classes"], **card["model_args"])
        load_into(twin, model.state_dict(), what=card["model"])
    except (RuntimeError, TypeError, SkdError):  # no such network, or one with other parts
        return None
    return twin if same_logits(model, twin, card) else None


@torch.no_grad()
def same_logits(one: nn.Module, other: nn.Module, card: dict[str, Any]) -> bool:
    """Whether two networks give the same logits, to float32's rounding, for one random image."""
    input = torch.randn(1, *card["input_size"], generator=torch.Generator().manual_seed(0))
    return torch.allclose(one.eval()(input), other.eval()(input), rtol=1e-4, atol=1e-4)


def _use(config: dict[str, Any]) -> str:
    """The lines that load a release with this ``config.json``."""
    from ..networks import NETWORKS

    if "architecture" not in config:
        return (
            "from skd_plugins.weights import load_network\n\n"
            'model, card = load_network("FOLDER")  # this folder; timm alone can\'t make this network'
        )
    registered = "import skd_plugins.networks  # registers the network with timm\n"
    return (
        f"import timm\n{registered if config['architecture'] in NETWORKS else ''}\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)  # this folder; on the Hub: hf-hub:OWNER/NAME'
    )


def readme(name: str, config: dict[str, Any], metrics: dict[str, float], evaluation: str, license: str) -> str:
    """The model card of a release with this ``config.json``, with the front matter of the Hugging Face Hub."""
    card = config["skd"]
    recipe, made = card["recipe"], card["environment"]
    library, tag = ("library_name: timm\n", "- timm\n") if "architecture" in config else ("", "")
    size = " x ".join(str(side) for side in card["input_size"])
    rows = "\n".join(
        f"| {key} | {f'{100 * value:.2f} %' if key in _PERCENT else value} | {value!r} |"
        for key, value in metrics.items()
    )
    versions = ", ".join(f"{key} {value}" for key, value in made["versions"].items())
    arguments = f" ({', '.join(f'{key} {value}' for key, value in recipe['method_args'].items())})"
    average = ", averaged weights" if card["ema"] else ""
    with_arguments = f" with {json.dumps(card['model_args'])}" if card["model_args"] else ""
    return f"""---
license: {license.lower()}
{library}pipeline_tag: image-classification
tags:
- image-classification
{tag}- self-knowledge-distillation
---
# {name}

`{card["model"]}`{with_arguments}, {card["num_classes"]} classes, trained with
`{recipe["method"]}`{arguments if recipe["method_args"] else ""} of skd_plugins.

## Results

Of these very files, by `{evaluation}`:

| metric | | exactly |
|---|---|---|
{rows}

Another processor or version of torch can move the last digits of nll and ECE.

## Use

```python
{_use(config)}
```

or `model.load_state_dict(skd_plugins.load_weights("{name}"))`, and in detectron2 (skd_plugins' `detection/`)
`MODEL.TIMM.WEIGHTS {name}`.

## Pre-processing

Input {size}, {card["color"]}, values in [0, 1], centre crop of {card["crop_pct"]:g} of the shorter side,
{card["interpolation"]} resizing; mean {card["mean"]}, std {card["std"]}.

## Training

- Command: `{made["command"]}` (seed {recipe["seed"]}, epoch {card["epoch"]}{average})
- Commit: {made["commit"] or "not recorded"}
- Versions: {versions}
- The whole recipe is in `config.json`, under `skd`.

## Data and licence

Trained on {DATA.get(recipe["dataset"], recipe["dataset"])}. The weights are {license}.
"""
