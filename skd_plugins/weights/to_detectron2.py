"""Weights for detectron2's own ResNet."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.files import atomic
from ..networks.build import build_network
from .load import Which, load_into, read_weights

# (blocks a stage, convolutions a block): depth
_DEPTHS: dict[tuple[tuple[int, ...], int], int] = {
    ((2, 2, 2, 2), 2): 18,
    ((3, 4, 6, 3), 2): 34,
    ((3, 4, 6, 3), 3): 50,
    ((3, 4, 23, 3), 3): 101,
    ((3, 8, 36, 3), 3): 152,
}
# What detectron2's ResNet is made of; anything else in a network changes its outputs.
_PARTS = {
    "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Identity", "Linear", "AdaptiveAvgPool2d", "Flatten",
    "FastAdaptiveAvgPool",
}  # fmt: skip


def export_detectron2(
    source: str | Path, out: str | Path, *, name: str | None = None, which: Which = "last", ema: bool | None = None
) -> Path:
    """Writes ``OUT/ARCH.TAG.pkl`` for detectron2's native ResNet, and ``ARCH.TAG.detectron2.yaml`` beside it.

    The YAML has every setting that must go with the weights: merge it into a config, or copy its lines.

    * ``MODEL.WEIGHTS``: the file; detectron2 matches its keys to ``backbone.bottom_up.*`` or ``backbone.*``.
    * ``MODEL.RESNETS.DEPTH``, ``NUM_GROUPS``, ``WIDTH_PER_GROUP``, ``STEM_OUT_CHANNELS``, ``RES2_OUT_CHANNELS``: the
      network.
    * ``MODEL.RESNETS.STRIDE_IN_1X1: False``: timm and torchvision have the stride in the 3x3 convolution; detectron2's
      default is Caffe's. Wrong, it costs several AP and no message.
    * ``MODEL.RESNETS.NORM: FrozenBN``: the usual choice; the statistics come with the weights.
    * ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD`` (0 to 255) and ``INPUT.FORMAT: RGB``: the pre-processing of the weights'
      card; detectron2's defaults are Caffe's (BGR, no division).

    The classifier comes along as ``linear.*``; a detector does not use it, and detectron2 says so.

    Source: the naming of detectron2's tools/convert-torchvision-to-d2.py (conv1 to stem.conv1, layerN to res(N+1), bnN
        to convN.norm, downsample to shortcut).

    Args:
        source: see `read_weights`.
        out: folder.
        name: ``arch.tag``; the card's by default.
        which: see `read_weights`.
        ema: see `read_weights`.

    Returns:
        the ``.pkl``.

    Raises:
        SkdError: see `read_weights`; or detectron2's ResNet can't be that network (another stem, attention, ...).
    """
    weights, card = read_weights(source, which=which, ema=ema)
    model = build_network(card["model"], num_classes=card["num_classes"], **card["model_args"])
    load_into(model, weights, what=str(source))
    settings = detectron2_settings(model, card)
    name = name or card.get("name") or card["recipe"]["name"]
    path = Path(out) / f"{name}.pkl"
    # `matching_heuristics`: keys are matched by their ends, because they lack the prefix they have in a detector.
    content = {
        "model": {key: value.numpy() for key, value in detectron2_state_dict(model.state_dict()).items()},
        "__author__": "skd_plugins",
        "matching_heuristics": True,
    }
    with atomic(path) as part, part.open("wb") as file:
        pickle.dump(content, file)
    path.with_suffix(".detectron2.yaml").write_text(settings_yaml(settings, path))
    return path


def detectron2_state_dict(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A timm or torchvision ResNet's state dict under detectron2's names.

    Raises:
        SkdError: keys that detectron2's ResNet has no place for.
    """
    renamed, left = {}, []
    for key, value in weights.items():
        if key.endswith(".num_batches_tracked"):  # frozen BatchNorm has none
            continue
        new = _rename(key)
        if new is None:
            left.append(key)
        else:
            renamed[new] = value
    if left:
        raise SkdError(
            f"detectron2's ResNet has no place for {len(left)} of the weights' keys: {', '.join(left[:3])}"
            f"{', ...' if len(left) > 3 else ''}; use the registered backbone (MODEL.TIMM) for this network"
        )
    return renamed


def _rename(key: str) -> str | None:
    if key.startswith("fc."):
        return f"linear.{key[3:]}"
    for pattern, replacement in (
        (r"conv1\.weight", "stem.conv1.weight"),
        (r"bn1\.(\w+)", r"stem.conv1.norm.\1"),
    ):
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    stage = re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", key)
    if not stage:
        return None
    for pattern, replacement in (
        (r"(conv[123])\.weight", r"\1.weight"),
        (r"bn([123])\.(\w+)", r"conv\1.norm.\2"),
        (r"downsample\.0\.weight", "shortcut.weight"),
        (r"downsample\.1\.(\w+)", r"shortcut.norm.\1"),
    ):
        if re.fullmatch(pattern, stage[3]):
            return f"res{int(stage[1]) + 1}.{stage[2]}.{re.sub(pattern, replacement, stage[3])}"
    return None


def detectron2_settings(model: nn.Module, card: dict[str, Any]) -> dict[str, Any]:
    """What a detectron2 config needs besides the weights, as ``{"MODEL.RESNETS.DEPTH": 152, ...}``.

    Raises:
        SkdError: the network is not one that detectron2's ResNet can be.
    """
    foreign = sorted({type(part).__name__ for part in model.modules() if not list(part.children())} - _PARTS)
    if foreign:
        raise SkdError(f"{card['model']} has parts that detectron2's ResNet has not: {', '.join(foreign)}")
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
            f"{card['model']} with {card['model_args']} is not a network that detectron2's ResNet can be (ResNet-18, "
            "34, 50, 101, 152 or ResNeXt with a 7x7 stem); use the registered backbone (MODEL.TIMM) for it"
        )
    groups, width = 1, 64
    if bottleneck:
        inner = state["res2.0.conv2.weight"]
        groups = inner.shape[0] // inner.shape[1]
        width = inner.shape[0] // groups
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem.shape[0],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": state[f"res2.0.conv{3 if bottleneck else 2}.weight"].shape[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.PIXEL_MEAN": [round(255 * value, 3) for value in card["mean"]],
        "MODEL.PIXEL_STD": [round(255 * value, 3) for value in card["std"]],
        "INPUT.FORMAT": card["color"],
    }


def settings_yaml(settings: dict[str, Any], weights: Path) -> str:
    """The settings as a detectron2 config, with the weights' path."""
    import yaml

    tree: dict[str, Any] = {}
    for key, value in ({"MODEL.WEIGHTS": str(weights)} | settings).items():
        *parents, leaf = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    text: str = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)
    return f"# Goes with {weights.name}: without these settings the weights are useless, without a message.\n{text}"
