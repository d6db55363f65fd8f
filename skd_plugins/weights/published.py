"""Weights that timm and torchvision publish, with a card like our own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import SkdError, unknown

_PREFIXES = ("timm/", "torchvision/")


def is_published(name: str) -> bool:
    """Whether the name is of the form ``timm/NAME.TAG`` or ``torchvision/NAME.WEIGHTS``."""
    return name.startswith(_PREFIXES)


def read_published(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and a card of published weights, downloaded by the library that publishes them.

    Args:
        name: ``timm/resnet152.tv_in1k``, or ``torchvision/resnet50.IMAGENET1K_V1``; without a tag, the library's
            default weights.

    Raises:
        SkdError: there are no such weights, or they could not be had.
    """
    library, _, rest = name.partition("/")
    try:
        model, card = (_timm if library == "timm" else _torchvision)(rest)
    except SkdError:
        raise
    except Exception as error:  # what a download can raise differs between versions of three libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SkdError(
            f"weights {name!r} could not be had from {library}: {reason}; without a network, give a file"
        ) from error
    return model.state_dict(), {"name": rest, "classes": None, "color": "RGB", "recipe": None} | card


def _timm(name: str) -> tuple[nn.Module, dict[str, Any]]:
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        raise unknown("timm model", arch, timm.list_models())
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in tags:
        raise unknown(f"tag of timm's {arch}", tag, tags)
    model: Any = timm.create_model(name, pretrained=True)
    about = model.pretrained_cfg
    return model, {
        "model": arch, "model_args": {}, "num_classes": about["num_classes"], "input_size": list(about["input_size"]),
        "mean": list(about["mean"]), "std": list(about["std"]), "crop_pct": about["crop_pct"],
        "interpolation": about["interpolation"],
    }  # fmt: skip


def _torchvision(name: str) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models

    arch, _, tag = name.partition(".")
    if arch not in models.list_models(module=models):
        raise unknown("torchvision model", arch, models.list_models(module=models))
    choices = models.get_model_weights(arch)
    if tag and tag not in choices.__members__:
        raise unknown(f"weights of torchvision's {arch}", tag, choices.__members__)
    weights = choices[tag or "DEFAULT"]
    pixels = weights.transforms()
    return models.get_model(arch, weights=weights), {
        "model": f"torchvision/{arch}", "model_args": {}, "num_classes": len(weights.meta["categories"]),
        "classes": weights.meta["categories"], "input_size": [3, *pixels.crop_size * (2 // len(pixels.crop_size))],
        "mean": list(pixels.mean), "std": list(pixels.std), "crop_pct": pixels.crop_size[0] / pixels.resize_size[0],
        "interpolation": pixels.interpolation.value,
    }  # fmt: skip
