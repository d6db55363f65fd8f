"""Fine-tuning a part of a network: the norms, the stem, or everything below the classifier stays as it is."""

from types import MethodType
from typing import Any, Literal, TypeAlias

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.errors import SkdError
from .create import classifier_names

Frozen: TypeAlias = Literal["none", "norms", "stem", "body"]


def freeze(model: nn.Module, part: Frozen) -> None:
    """Takes the gradients from the BatchNorm layers, the stem (timm's first group), or all but the classifier.

    BatchNorm in it stays in evaluation mode: it uses and keeps the statistics that it came with. Dropout and stochastic
    depth stay on.
    """
    network: Any = model
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if part == "none":
        return
    if part == "norms":
        names = {f"{name}.{own}" for name, module in norms.items() for own, _ in module.named_parameters()}
        if not names:
            raise SkdError(f"freeze='norms': {type(model).__name__} has no BatchNorm; leave it out")
    elif part == "stem":
        if not callable(getattr(model, "group_matcher", None)):
            raise SkdError(f"freeze='stem': {type(model).__name__} does not say what its stem is; timm's networks do")
        layers = group_parameters(model, network.group_matcher(), reverse=True)
        names = {name for name, layer in layers.items() if layer == 0}
    else:
        heads = tuple(f"{name}." for name in classifier_names(model))
        names = {name for name, _ in model.named_parameters() if not name.startswith(heads)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in names)
    for name, module in norms.items():
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if own and own <= names:
            module.eval().train = MethodType(_stay, module)  # type: ignore[method-assign]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """``train`` of a frozen BatchNorm. A function of the file, so that copies of the network have their own."""
    return module
