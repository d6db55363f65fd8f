"""DenseNet-BC-121 for 32-pixel images, of both papers."""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models.densenet import DenseNet
from torch import nn

from .parts import cifar_config, stem_like, torch_initialisation

default_cfgs = {"densenet121_cifar": cifar_config(classifier="classifier", first_conv="features.conv0")}


class CifarDenseNet(DenseNet):
    """timm's DenseNet with a bare 3 x 3 stem: stride 1, no norm, no pool.

    Source: Yun et al. 2020, section 3.1; alinlab/cs-kd b447f25, ``models/densenet3.py`` ``CIFAR_DenseNet``; the same in
        yechanp/self_kd 9abb7e5. The authors put a layer's new maps before the old ones, timm puts them behind. So their
        weights fit once the input channels of a block's norms and convolutions are reordered. Then the logits differ
        by rounding only (by at most 9.5e-15 of the largest, float64, 16 images, both modes).
    Deviation: pools the whole map, the authors 4 x 4 of it. This is the same at 32 pixels; theirs takes no other size.

    Args:
        arguments: of timm's `DenseNet`; ``growth_rate=4, block_config=(1, 1, 1, 1)`` makes a narrow one. The stem has
            twice `growth_rate` channels.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.features.conv0 = stem_like(self.features.conv0)
        # Identities, because timm's feature taps count the children.
        self.features.norm0, self.features.pool0 = nn.Identity(), nn.Identity()
        for number, info in enumerate(self.feature_info):
            info["reduction"] = 2 ** max(0, number - 1)
        torch_initialisation(self)


@register_model
def densenet121_cifar(pretrained: bool = False, **arguments: Any) -> DenseNet:
    """DenseNet-BC with [6, 12, 24, 16] layers, growth 32, half the channels kept in transitions."""
    settings = {"growth_rate": 32, "block_config": (6, 12, 24, 16), **arguments}
    model: DenseNet = build_model_with_cfg(
        CifarDenseNet, "densenet121_cifar", pretrained, feature_cfg={"flatten_sequential": True}, **settings
    )
    return model
