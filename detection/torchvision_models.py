"""Trained classifiers as backbones of torchvision's detectors; needs no detectron2."""

from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.utils.model import freeze_batch_norm_2d
from torch import nn

from skd_plugins.common.errors import SkdError
from skd_plugins.weights.load import load_into, read_any

_LAYERS = ("layer4", "layer3", "layer2", "layer1", "conv1", "bn1")


def use_backbone(
    detector: nn.Module, weights: str | Path, *, trainable_layers: int = 3, frozen_norm: bool = True
) -> nn.Module:
    """Loads a classifier's weights into the backbone of a detector, in place, and returns the detector.

    The detector then normalises images ``[3, H, W]`` in [0, 1], RGB, as the card beside the weights says; without a
    card, as ImageNet's. Layers and BatchNorm are frozen here, which torchvision does only with weights of its own.

    Args:
        detector: of ``torchvision.models.detection``, with any ResNet and FPN:
            ``fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)``, ``retinanet_resnet50_fpn``,
            ``maskrcnn_resnet50_fpn``, ``FasterRCNN(resnet_fpn_backbone(backbone_name="resnet152", weights=None), 91)``.
        weights: a run's folder, a file or a name, as for ``MODEL.TIMM.WEIGHTS`` (`add_skd_config`). Every tensor has to
            fit; the classifier is not used.
        trainable_layers: how many of layer4, layer3, layer2, layer1 and the stem are trained, as torchvision's
            ``trainable_backbone_layers``; 3 is its default, and as ``FREEZE_AT: 2`` in detectron2.
        frozen_norm: fix the statistics and affine parameters of the backbone's BatchNorm.
    """
    part: Any = detector
    body, transform = getattr(getattr(part, "backbone", None), "body", None), getattr(part, "transform", None)
    if body is None or transform is None:
        raise SkdError(f"{type(detector).__name__} is not a detector of torchvision with a feature pyramid on a ResNet")
    if not 0 <= trainable_layers <= 5:
        raise SkdError(f"trainable_layers should be 0 to 5, got {trainable_layers}")
    state, card = read_any(weights)
    pixels = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "color": "RGB"} | (card or {})
    if pixels["color"] != "RGB":
        raise SkdError(f"{weights} was trained on {pixels['color']} images, but torchvision's detectors take RGB")
    for key, usual in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
        have, wanted = list(getattr(transform, f"image_{key}")), list(pixels[key])
        if have not in (list(usual), wanted):
            raise SkdError(f"{weights} was trained with {key} {wanted}, but the detector has image_{key} {have}")
        setattr(transform, f"image_{key}", wanted)
    own = body.state_dict()
    kept = {  # torchvision's frozen BatchNorm counts no batches
        key: value for key, value in state.items()
        if not key.startswith("fc.") and (key in own or not key.endswith("num_batches_tracked"))
    }  # fmt: skip
    load_into(body, kept, what=str(weights))
    for name, layer in list(body.named_children()):
        if frozen_norm:
            body.add_module(name, freeze_batch_norm_2d(layer))
        trained = name in _LAYERS[: trainable_layers + (trainable_layers == 5)]
        for parameter in body[name].parameters():
            parameter.requires_grad_(trained)
    return detector
