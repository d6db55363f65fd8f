"""The ``config.json`` of released weights, with which timm makes their network."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..common.files import write_json
from ..networks import NETWORKS
from .manifest import CARD_FILE


def is_ours(architecture: str | None) -> bool:
    """Whether timm knows the network only after this package is imported."""
    return architecture in NETWORKS


def write_config(part: Path, model: nn.Module, card: dict[str, Any]) -> dict[str, Any]:
    """Writes and returns ``config.json``, with which timm makes the network from ``local-dir:`` and ``hf-hub:``.

    Our card is in it as ``skd``. If timm does not get the same logits (it lacks torchvision's network, say, or another
    classifier), the file has no ``architecture``, so that timm refuses it instead of making a wrong network.
    """
    config = {"num_classes": card["num_classes"], "skd": card}
    if card["classes"]:
        config["label_names"] = card["classes"]
    arch = card["model"].removeprefix("torchvision/").partition(".")[0]
    own = timm.get_pretrained_cfg(arch) if timm.is_model(arch) else None
    if own is not None:
        about = {key: card[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation", "num_classes")}
        # timm needs these to change the number of channels or classes.
        about |= {key: getattr(own, key) for key in ("fixed_input_size", "first_conv", "classifier")}
        in_timm = {"architecture": arch, "model_args": card["model_args"], "pretrained_cfg": about, **config}
        write_json(part / CARD_FILE, in_timm)
        try:
            if _same_logits(model, timm.create_model(f"local-dir:{part}", pretrained=True), card):
                return in_timm
        except (RuntimeError, TypeError):  # timm's network has other layers or arguments
            pass
    write_json(part / CARD_FILE, config)
    return config


@torch.no_grad()
def _same_logits(one: nn.Module, other: nn.Module, card: dict[str, Any]) -> bool:
    """Whether two networks give the same logits for a random image, up to float32's rounding."""
    input = torch.randn(1, *card["input_size"], generator=torch.Generator().manual_seed(0))
    return torch.allclose(one.eval()(input), other.eval()(input), rtol=1e-4, atol=1e-4)
