"""Pre-activation ResNets for 32-pixel images, CS-KD's."""

from typing import Any

from timm.layers import create_classifier
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn
from torch.nn import functional

from .parts import cifar_config, torch_initialisation

default_cfgs = {
    f"preact_resnet{depth}_cifar": cifar_config(classifier="fc", first_conv="conv1") for depth in (10, 18, 34)
}


class PreActBlock(nn.Module):
    """Norm, ReLU, 3 x 3 convolution, twice; the shortcut starts after the first ReLU.

    It starts there in every block, also when it is the identity, as in CS-KD's code. In He et al. 2016 only a
    projection does.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        x = functional.relu(self.bn1(x))
        result: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(x)))) + self.shortcut(x)
        return result


class PreActResNet(nn.Module):
    """Pre-activation ResNet with a 3 x 3 stem (with norm and ReLU), and no norm or ReLU before the pooling.

    Source: Yun et al. 2020, section 3.1; alinlab/cs-kd b447f25, ``models/resnet.py`` ``CIFAR_ResNet``: the same
        parameters in the same order, the same (PyTorch's own) initialisation. With its weights the logits differ by
        the rounding of the pooling only (by at most 7.6e-16 of the largest, float64, 16 images, all three depths,
        training and evaluation mode).
    Deviation: pools the whole map, the authors 4 x 4 of it. This is the same at 32 pixels; theirs takes no other size.

    Args:
        layers: number of blocks of each stage.
        channels: of the stages; the stem has the first stage's.
        num_classes: 0 for no classifier.
        global_pool: timm's pooling; empty for none.
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        channels: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans, self.drop_rate = in_chans, drop_rate
        width = channels[0]
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info: list[dict[str, Any]] = [{"num_chs": width, "reduction": 1, "module": "act1"}]
        self.stages = [f"layer{number}" for number in range(1, len(layers) + 1)]
        for number, (name, count, outputs) in enumerate(zip(self.stages, layers, channels, strict=True)):
            blocks: list[nn.Module] = []
            for block in range(count):
                blocks.append(PreActBlock(width, outputs, 2 if number and not block else 1))
                width = outputs
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": 2**number, "module": name})
        self.num_features = self.head_hidden_size = width
        self.global_pool: Any
        self.fc: nn.Module
        self.reset_classifier(num_classes, global_pool)
        torch_initialisation(self)

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts in a random classifier. `global_pool` None keeps the pooling."""
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        weight = self.conv1.weight
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, device=weight.device, dtype=weight.dtype
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps ``[B, D, H / 8, W / 8]``."""
        x = self.act1(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[B, C]`` of the last stage's maps, or pooled features ``[B, D]``."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to logits ``[B, C]``."""
        return self.forward_head(self.forward_features(x))


def _build(name: str, pretrained: bool, layers: tuple[int, ...], arguments: Any) -> PreActResNet:
    model: PreActResNet = build_model_with_cfg(PreActResNet, name, pretrained, layers=layers, **arguments)
    return model


@register_model
def preact_resnet10_cifar(pretrained: bool = False, **arguments: Any) -> PreActResNet:
    """One block per stage."""
    return _build("preact_resnet10_cifar", pretrained, (1, 1, 1, 1), arguments)


@register_model
def preact_resnet18_cifar(pretrained: bool = False, **arguments: Any) -> PreActResNet:
    """Two blocks per stage."""
    return _build("preact_resnet18_cifar", pretrained, (2, 2, 2, 2), arguments)


@register_model
def preact_resnet34_cifar(pretrained: bool = False, **arguments: Any) -> PreActResNet:
    """3, 4, 6 and 3 blocks."""
    return _build("preact_resnet34_cifar", pretrained, (3, 4, 6, 3), arguments)
