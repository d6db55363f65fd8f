"""What the examples train on: the embedded typefaces as tensors, 62 classes, 620 images to train, 1,240 to validate."""

import timm
import torch
from torch.utils.data import TensorDataset

from skd_plugins.data import open_source


def glyphs(train: bool) -> TensorDataset:
    """Images ``[N, 3, 32, 32]`` from -1 to 1, and classes."""
    source = open_source("glyphs", train)
    images = torch.stack([torch.from_numpy(source.load(index)) for index in range(len(source.targets))])
    return TensorDataset(images.permute(0, 3, 1, 2) / 127.5 - 1, torch.from_numpy(source.targets))


def network() -> torch.nn.Module:
    """A small ResNet, which trains in a minute on a processor."""
    return timm.create_model("resnet14t", num_classes=62, channels=(16, 32, 64, 128))


@torch.no_grad()
def error(model: torch.nn.Module) -> str:
    """The error on the validation typefaces."""
    images, targets = glyphs(train=False).tensors
    device = next(model.parameters()).device
    wrong = model.eval()(images.to(device)).argmax(dim=1).cpu() != targets
    return f"error: {wrong.float().mean():.1%}"
