"""Post-activation ResNets: SD-Dropout's for CIFAR, and the 224-pixel ResNet-10 of CS-KD's Table 4."""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from .parts import cifar_config, stem_like

default_cfgs = {
    "resnet10": {
        "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "classifier": "fc",
        "first_conv": "conv1", "license": "apache-2.0",
    },
    "resnet18_cifar": cifar_config(classifier="fc", first_conv="conv1"),
    "resnet34_cifar": cifar_config(classifier="fc", first_conv="conv1"),
}  # fmt: skip


class CifarResNet(ResNet):
    """timm's (and torchvision's) ResNet with a 3 x 3 stem of stride 1 and no max-pool.

    Source: Lee et al. 2022, section 4.1.1; yechanp/self_kd 9abb7e5, ``models/resnet.py`` ``ResNet_CIFAR``: the same
        parameters under the same names, the same initialisation (no zero in a block's last norm). With its weights the
        logits are bit-equal (float64, 16 images, ResNet-18 and -34, training and evaluation mode).

    Args:
        arguments: of timm's `ResNet`; ``channels=(8, 8, 16, 16)`` makes a narrow one (the stem keeps 64).
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        network: Any = self  # timm gives its layers narrower types
        network.conv1, network.maxpool = stem_like(self.conv1), nn.Identity()
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        for number, info in enumerate(self.feature_info):
            info["reduction"] = 2 ** max(0, number - 1)  # stem and layer1 keep the resolution


def _build(network: type[ResNet], name: str, pretrained: bool, layers: tuple[int, ...], arguments: Any) -> ResNet:
    # Like torchvision and the authors, and unlike timm: a block's last norm does not start at zero.
    settings = {"block": BasicBlock, "layers": layers, "zero_init_last": False, **arguments}
    model: ResNet = build_model_with_cfg(network, name, pretrained, **settings)
    return model


@register_model
def resnet10(pretrained: bool = False, **arguments: Any) -> ResNet:
    """ResNet with one basic block per stage and a 7 x 7 stem, for 224 pixels (timm's ``resnet10t`` has another stem).

    Source: Yun et al. 2020, Table 4, which does not give its layout; alinlab/cs-kd b447f25, ``models/resnet.py``
        ``resnet10``: the same initialisation, and with its weights bit-equal logits (float64, both modes).
    """
    return _build(ResNet, "resnet10", pretrained, (1, 1, 1, 1), arguments)


@register_model
def resnet18_cifar(pretrained: bool = False, **arguments: Any) -> ResNet:
    """ResNet-18 for 32-pixel images, see `CifarResNet`."""
    return _build(CifarResNet, "resnet18_cifar", pretrained, (2, 2, 2, 2), arguments)


@register_model
def resnet34_cifar(pretrained: bool = False, **arguments: Any) -> ResNet:
    """ResNet-34 for 32-pixel images, see `CifarResNet`."""
    return _build(CifarResNet, "resnet34_cifar", pretrained, (3, 4, 6, 3), arguments)
