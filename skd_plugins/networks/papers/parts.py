"""What the networks for 32-pixel images share: their entries for timm, the stem, PyTorch's initialisation."""

from typing import Any

from torch import nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)  # both papers' code; std of the channels' means over the images, as widely copied


def cifar_config(*, classifier: str, first_conv: str) -> dict[str, Any]:
    """A CIFAR network's entry in timm's ``default_cfgs``."""
    return {
        "url": "", "num_classes": 100, "input_size": (3, 32, 32), "pool_size": (4, 4), "crop_pct": 1.0,
        "interpolation": "bilinear", "mean": CIFAR_MEAN, "std": CIFAR_STD, "classifier": classifier,
        "first_conv": first_conv, "license": "apache-2.0",
    }  # fmt: skip


def stem_like(conv: Any) -> nn.Conv2d:
    """A 3 x 3 convolution of stride 1 with the channels of a stem's 7 x 7 one."""
    place = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False, **place)


def torch_initialisation(model: nn.Module) -> None:
    """PyTorch's own initialisation of every convolution and linear layer, as in the authors' code.

    The authors' PreAct ResNets and DenseNet initialise nothing themselves; torchvision's and timm's networks do.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
