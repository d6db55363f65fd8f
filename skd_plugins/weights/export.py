"""Export of trained networks: a plain state dict with a card, timm's ``config.json``, detectron2's own ResNet."""

import pickle
import re
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.files import atomic, file_sha256, json_text, write_json
from ..networks import NETWORKS
from . import Which
from .load import load_network, read_weights
from .manifest import CARD_FILE

# (blocks a stage, convolutions a block): depth
_DEPTHS: dict[tuple[tuple[int, ...], int], int] = {
    ((2, 2, 2, 2), 2): 18,
    ((3, 4, 6, 3), 2): 34,
    ((3, 4, 6, 3), 3): 50,
    ((3, 4, 23, 3), 3): 101,
    ((3, 8, 36, 3), 3): 152,
}
# The layers of detectron2's ResNet; any other layer in a network changes its outputs.
_PARTS = {
    "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Identity", "Linear", "AdaptiveAvgPool2d", "Flatten",
    "FastAdaptiveAvgPool",
}  # fmt: skip
_BLOCK = r"(res[2-5]\.\d+)"
_RENAMED = {
    r"fc\.(\w+)": r"linear.\1",
    r"conv1\.weight": "stem.conv1.weight",
    r"bn1\.(\w+)": r"stem.conv1.norm.\1",
    rf"{_BLOCK}\.(conv[123]\.weight)": r"\1.\2",
    rf"{_BLOCK}\.bn([123])\.(\w+)": r"\1.conv\2.norm.\3",
    rf"{_BLOCK}\.downsample\.0\.weight": r"\1.shortcut.weight",
    rf"{_BLOCK}\.downsample\.1\.(\w+)": r"\1.shortcut.norm.\2",
}


def export_weights(
    checkpoint: str | Path, out: str | Path, *, name: str | None = None, which: Which = "last", ema: bool | None = None
) -> Path:
    """Writes ``OUT/ARCH.TAG.safetensors`` and its card ``ARCH.TAG.json``; returns the former.

    The keys are the plain timm or torchvision network's: ``model.load_state_dict(load_file(path))`` loads them.

    Args:
        checkpoint: as for `read_weights`, like `which` and `ema`.
        name: ``arch.tag``; the recipe's name by default.
    """
    weights, card = read_weights(checkpoint, which=which, ema=ema)
    name = name or card.get("name") or card["recipe"]["name"]
    path = Path(out) / f"{name}.safetensors"
    try:
        with atomic(path) as part, atomic(path.with_name(f"{name}.json")) as card_part:
            save_file({key: value.contiguous() for key, value in weights.items()}, part, metadata={"format": "pt"})
            card = card | {"name": name, "sha256": file_sha256(part), "size": part.stat().st_size}
            card_part.write_text(json_text(card))
    except (OSError, SafetensorError) as error:
        raise SkdError(f"can't write {path}: {error}; make room, or give another --out") from None
    return path


def export_detectron2(
    source: str | Path, out: str | Path, *, name: str | None = None, which: Which = "last", ema: bool | None = None
) -> Path:
    """Writes ``OUT/ARCH.TAG.pkl`` for detectron2's own ResNet, and ``ARCH.TAG.detectron2.yaml`` beside it.

    The YAML has every setting that must go with the weights; merge it into a config or copy its lines. Above all:

    * ``MODEL.RESNETS.STRIDE_IN_1X1: False``: timm and torchvision put the stride into the 3x3 convolution, detectron2's
      default (Caffe's) into the 1x1. The wrong one costs several AP without a message.
    * ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD`` (0 to 255) and ``INPUT.FORMAT: RGB``: the pre-processing of the weights'
      card; detectron2's defaults are Caffe's (BGR, no division).

    ``MODEL.RESNETS.NORM: FrozenBN`` is the usual choice; the statistics come with the weights. detectron2 matches the
    keys of the file to ``backbone.bottom_up.*`` or ``backbone.*``. The classifier is in the file as ``linear.*``; a
    detector does not use it, and detectron2 says so.

    Source: the names of detectron2's tools/convert-torchvision-to-d2.py (conv1 to stem.conv1, layerN to res(N+1), bnN
        to convN.norm, downsample to shortcut).

    Args:
        source: as for `read_weights`, like `which` and `ema`.
        name: ``arch.tag``; the card's by default.
    """
    model, card = load_network(source, which=which, ema=ema)
    settings = detectron2_settings(model, card)
    path = Path(out) / f"{name or card.get('name') or card['recipe']['name']}.pkl"
    settings["MODEL"] = {"WEIGHTS": str(path), **settings["MODEL"]}
    content = {
        "model": {key: value.numpy() for key, value in detectron2_state_dict(model.state_dict()).items()},
        "__author__": "skd_plugins",
        "matching_heuristics": True,  # match keys by their ends, as they lack the prefix they have in a detector
    }
    with atomic(path) as part, part.open("wb") as file:
        pickle.dump(content, file)
    path.with_suffix(".detectron2.yaml").write_text(
        f"# Use these settings with {path.name}. Without them detectron2 loads the weights, but gets them wrong "
        f"silently.\n{yaml.safe_dump(settings, sort_keys=False, default_flow_style=None)}"
    )
    return path


def detectron2_state_dict(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A timm or torchvision ResNet's state dict under detectron2's names."""
    renamed, left = {}, []
    for key, value in weights.items():
        if key.endswith(".num_batches_tracked"):  # frozen BatchNorm has none
            continue
        ours = re.sub(r"^layer([1-4])\.", lambda stage: f"res{int(stage[1]) + 1}.", key)
        name = next((re.sub(old, new, ours) for old, new in _RENAMED.items() if re.fullmatch(old, ours)), "")
        if name:
            renamed[name] = value
        else:
            left.append(key)
    if left:
        raise SkdError(
            f"detectron2's ResNet has no place for {len(left)} of the weights' keys: {', '.join(left[:3])}"
            f"{', ...' if len(left) > 3 else ''}; use the registered backbone (MODEL.TIMM) for this network"
        )
    return renamed


def detectron2_settings(model: nn.Module, card: dict[str, Any]) -> dict[str, Any]:
    """The settings of a detectron2 config that go with the weights of this network."""
    foreign = sorted({type(part).__name__ for part in model.modules() if not list(part.children())} - _PARTS)
    if foreign:
        raise SkdError(f"{card['model']} has layers that detectron2's ResNet lacks: {', '.join(foreign)}")
    state = detectron2_state_dict(model.state_dict())
    blocks = tuple(len({key.split(".")[1] for key in state if key.startswith(f"res{n}.")}) for n in (2, 3, 4, 5))
    bottleneck = "res2.0.conv3.weight" in state
    depth = _DEPTHS.get((blocks, 3 if bottleneck else 2))
    stem = state["stem.conv1.weight"]
    strides = [
        (int(name.split(".")[0][-1]), name.split(".")[-1])
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d) and part.stride == (2, 2) and "downsample" not in name and "layer" in name
    ]
    norms = {part.eps for part in model.modules() if isinstance(part, nn.BatchNorm2d)}
    regular = strides == [(stage, "conv2" if bottleneck else "conv1") for stage in (2, 3, 4)] and norms == {1e-5}
    if depth is None or list(stem.shape[1:]) != [3, 7, 7] or not regular:
        raise SkdError(
            f"detectron2's ResNet can't be {card['model']} with {card['model_args']}, only ResNet-18, 34, 50, 101, 152 "
            "or ResNeXt with a 7x7 stem; use the registered backbone (MODEL.TIMM) for it"
        )
    inner = state["res2.0.conv2.weight"]  # 64 x 64 in a basic block
    groups = inner.shape[0] // inner.shape[1]
    return {
        "MODEL": {
            "RESNETS": {
                "DEPTH": depth,
                "NUM_GROUPS": groups,
                "WIDTH_PER_GROUP": inner.shape[0] // groups,
                "STEM_OUT_CHANNELS": stem.shape[0],
                "RES2_OUT_CHANNELS": state[f"res2.0.conv{3 if bottleneck else 2}.weight"].shape[0],
                "STRIDE_IN_1X1": False,
                "NORM": "FrozenBN",
            },
            "PIXEL_MEAN": [round(255 * value, 3) for value in card["mean"]],
            "PIXEL_STD": [round(255 * value, 3) for value in card["std"]],
        },
        "INPUT": {"FORMAT": card["color"]},
    }


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
