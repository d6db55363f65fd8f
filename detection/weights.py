"""Backbone weights: checked against the configuration, then loaded completely or refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from skd_plugins.common.errors import SkdError
from skd_plugins.networks.create import build_network
from skd_plugins.weights import checkpoint
from skd_plugins.weights.load import load_body, read_any

from .config import plain, uses_timm

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "RGB"}


class BackboneWeights(NamedTuple):
    """A network's weights; the classifier may be missing."""

    source: str  # as the user named them
    state: dict[str, Tensor]
    card: dict[str, Any] | None  # None for another program's


def wanted_weights(cfg: CfgNode) -> BackboneWeights | None:
    """The weights a new detector starts from; None for random weights, or if a whole detector is loaded."""
    if not cfg.MODEL.TIMM.WEIGHTS or cfg.MODEL.WEIGHTS:
        return None
    return BackboneWeights(cfg.MODEL.TIMM.WEIGHTS, *read_any(cfg.MODEL.TIMM.WEIGHTS))


def take_from_card(cfg: CfgNode, weights: BackboneWeights | None) -> None:
    """Fills in the network, its arguments and the pre-processing from the weights' card.

    Values that the configuration sets itself are compared with the card's. Without a card, the pre-processing is
    that of timm's weights of this network, or ImageNet's. detectron2's own networks keep theirs.
    """
    if not uses_timm(cfg):
        return
    card = (weights.card if weights else None) or {}
    timm, default, known = cfg.MODEL.TIMM, get_cfg(), {}
    timm.NAME = timm.NAME or card.get("model", "")
    if not timm.ARGS and card:
        timm.ARGS = CfgNode(card["model_args"], new_allowed=True)
    with suppress(RuntimeError):  # a tag that timm does not know, which it says when the network is made
        if usual := get_pretrained_cfg(timm.NAME):
            known = {"mean": usual.mean, "std": usual.std}
    pixels = _pixels(IMAGENET | known | card)
    if all(_get(cfg, key) == _get(default, key) for key in pixels):
        for entry in pixels.items():
            cfg.merge_from_list(entry)
    if weights:
        check_against_card(cfg, weights)


def take_from_config(cfg: CfgNode, path: Path) -> None:
    """Takes network and pre-processing from the ``config.yaml`` beside a trained detector."""
    saved = CfgNode.load_yaml_with_base(str(path))
    timm = saved.get("MODEL", {}).get("TIMM", {})
    for key, place, value in (
        ("NAME", cfg.MODEL.TIMM, timm.get("NAME")),
        ("ARGS", cfg.MODEL.TIMM, timm.get("ARGS") and CfgNode(timm["ARGS"], new_allowed=True)),
        ("PIXEL_MEAN", cfg.MODEL, saved.get("MODEL", {}).get("PIXEL_MEAN")),
        ("PIXEL_STD", cfg.MODEL, saved.get("MODEL", {}).get("PIXEL_STD")),
        ("FORMAT", cfg.INPUT, saved.get("INPUT", {}).get("FORMAT")),
    ):
        if value:
            place[key] = value


def check_against_card(cfg: CfgNode, weights: BackboneWeights) -> None:
    """Compares network and pre-processing with the weights' card.

    Without a card, the pixels must at least be RGB and not detectron2's default, which is in BGR.
    """
    card, timm = weights.card, cfg.MODEL.TIMM
    if card is None:
        if cfg.INPUT.FORMAT != "RGB" or cfg.MODEL.PIXEL_MEAN == get_cfg().MODEL.PIXEL_MEAN:
            usual = ", ".join(f'{key} "{value}"' for key, value in _pixels(IMAGENET).items())
            raise SkdError(
                f"{weights.source} has no card, and the config has {cfg.INPUT.FORMAT} pixels with mean "
                f"{list(cfg.MODEL.PIXEL_MEAN)}; timm's and torchvision's networks take {usual}"
            )
        return
    if _arch(card["model"]) != _arch(timm.NAME) or (plain(timm.ARGS) or {}) != card["model_args"]:
        raise SkdError(
            f"{weights.source} has weights of {_described(card['model'], card['model_args'])}, but the config wants "
            f"{_described(timm.NAME, plain(timm.ARGS))} (MODEL.TIMM.NAME and ARGS; left out, they are the weights')"
        )
    for key, value in _pixels(card).items():
        have = _get(cfg, key)
        if have != value and (isinstance(value, str) or not np.allclose(have, value, rtol=0, atol=0.01)):
            raise SkdError(
                f'{weights.source} was trained with {key} {value}, but the config has {have}; set {key} "{value}"'
            )


def check_detector(cfg: CfgNode) -> None:
    """Raises `SkdError` if the detector in ``MODEL.WEIGHTS`` does not fit the configuration; detectron2 only warns."""
    bare = cfg.clone()
    bare.MODEL.DEVICE = "cpu"
    own = build_model(bare).state_dict()
    state = checkpoint.read(Path(cfg.MODEL.WEIGHTS)).get("model", {})
    # Derived from the configuration; some versions of detectron2 do not save them.
    ignored = ("pixel_mean", "pixel_std")
    wrong = sorted(
        key
        for key in set(own) | set(state)
        if key not in ignored
        and "anchor_generator.cell_anchors" not in key
        and (key not in own or key not in state or own[key].shape != state[key].shape)
    )
    if wrong:
        raise SkdError(
            f"{cfg.MODEL.WEIGHTS} is not this configuration's detector: {len(wrong)} keys or shapes differ "
            f"({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''})"
        )


def create_classifier(cfg: CfgNode, weights: BackboneWeights | None) -> nn.Module:
    """The network that ``MODEL.TIMM`` names, with the weights.

    With ``MODEL.RESNETS.RES5_DILATION`` 2, the last stage is dilated such that its features at every second pixel are
    those of the network without dilation. detectron2's own ResNet also dilates the 3 x 3 convolution where the stride
    was.
    """
    timm = cfg.MODEL.TIMM
    if not timm.NAME:
        raise SkdError("MODEL.TIMM.NAME is empty, and there are no weights with a card that would say it")
    classes = 1000
    if weights:
        classes = weights.card["num_classes"] if weights.card else len(weights.state.get("fc.weight", range(classes)))
    arguments, dilation = plain(timm.ARGS), cfg.MODEL.RESNETS.RES5_DILATION
    if dilation not in (1, 2):
        raise SkdError(f"MODEL.RESNETS.RES5_DILATION should be 1 or 2, got {dilation}")
    if dilation == 2 and timm.NAME.startswith("torchvision/"):
        arguments |= {"replace_stride_with_dilation": [False, False, True]}
    elif dilation == 2:
        arguments |= {"output_stride": 16}
    network = build_network(timm.NAME, num_classes=classes, **arguments)
    if weights:
        load_body(network, weights.state, what=weights.source)  # a detector has no use for the classifier
    return network


def _pixels(card: dict[str, Any]) -> dict[str, Any]:
    """The card's pre-processing under detectron2's keys and in its units, 0 to 255."""
    scaled = {key: [round(255 * value, 3) for value in card[key]] for key in ("mean", "std")}
    return {"MODEL.PIXEL_MEAN": scaled["mean"], "MODEL.PIXEL_STD": scaled["std"], "INPUT.FORMAT": card["color"]}


def _arch(name: str) -> str:
    """The bare name: timm and torchvision use the same keys for ResNets of the same name."""
    return name.removeprefix("torchvision/").partition(".")[0]


def _described(name: str, arguments: dict[str, Any]) -> str:
    return f"{name or '?'}{f' with {arguments}' if arguments else ''}"


def _get(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return plain(cfg)
