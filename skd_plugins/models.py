"""Networks: any timm or torchvision classifier, and the features before its classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SkdError, unknown

_TIMMS_OWN = ("hf-hub:", "local-dir:")


def create_model(name: str, *, num_classes: int | None = None, pretrained: bool = False, **arguments: Any) -> nn.Module:
    """A classifier from timm (``resnet152``, ``timm/resnet152``) or torchvision (``torchvision/resnet152``).

    Args:
        name: a timm model name, with or without a tag, or ``torchvision/NAME``; with `pretrained` also
            ``torchvision/NAME.WEIGHTS`` and our released weights (``resnet10t_digits.sdd``, see ``skd weights list``).
        num_classes: outputs of the classifier; None for the pretrained weights' or the library's default.
        pretrained: load the weights of that name; a classifier with another number of classes starts anew.
        arguments: passed to the library's constructor.

    Raises:
        SkdError: the name is not known, the constructor refuses an argument, or the weights could not be had.
    """
    import timm

    try:
        if pretrained and not name.startswith(_TIMMS_OWN):
            model = _pretrained_model(name, arguments)
            if model is not None:
                return model if num_classes is None else with_classes(model, num_classes)
        if name.startswith("torchvision/"):
            return _torchvision_model(name.removeprefix("torchvision/"), num_classes, arguments)
        name = name.removeprefix("timm/")
        if not name.startswith(_TIMMS_OWN) and not timm.is_model(name.split(".")[0]):
            raise unknown("model", name, timm.list_models())
        created: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **arguments)
    except TypeError as error:
        raise SkdError(f"model {name!r} refuses an argument of model_args: {error}") from None
    return created


def _pretrained_model(name: str, arguments: dict[str, Any]) -> nn.Module | None:
    """The network with published or released weights; None for a name that is timm's own affair."""
    from .weights.load import load_into, read_weights
    from .weights.manifest import load_manifest
    from .weights.published import create_published, is_published

    if is_published(name):
        return create_published(name, **arguments)[0]
    if name not in load_manifest():
        return None
    weights, card = read_weights(name)
    model = create_model(card["model"], num_classes=card["num_classes"], **(card["model_args"] | arguments))
    load_into(model, weights, what=name)
    return model


def _torchvision_model(name: str, num_classes: int | None, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, models.list_models(module=models))
    if num_classes is not None:
        arguments = arguments | {"num_classes": num_classes}
    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def with_classes(model: nn.Module, num_classes: int) -> nn.Module:
    """The network, with a new classifier if its own has another number of outputs."""
    network: Any = model
    if hasattr(model, "reset_classifier"):
        if network.num_classes != num_classes:
            network.reset_classifier(num_classes)
        return model
    name, head = _last_linear(model)
    if head.out_features != num_classes:
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], nn.Linear(head.in_features, num_classes))
    return model


def classifier_of(model: nn.Module) -> nn.Linear:
    """The linear layer that makes logits of pooled features.

    Raises:
        SkdError: the network has none (convolutional or several heads), so features and logits can't be told apart.
    """
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if callable(get_classifier) else _last_linear(model)[1]
    if not isinstance(head, nn.Linear):
        raise SkdError(
            f"{type(model).__name__} does not end in one nn.Linear classifier (found {type(head).__name__}); "
            "use a network with a linear classifier"
        )
    return head


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise SkdError(f"{type(model).__name__} has no nn.Linear layer that could be its classifier")
    return linear[-1]


def forward_with_features(
    model: nn.Module, input: Tensor, expand: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Pooled features and logits from one pass through the network's body.

    For timm this is ``forward_features`` and ``forward_head(pre_logits=True)``; any other network runs as it is, with a
    hook on the input of its classifier.

    Args:
        model: the network.
        input: ``[B, 3, H, W]``.
        expand: maps the features ``[B, D]`` to ``[R, D]`` before the classifier; None leaves them.

    Returns:
        features ``[B, D]`` and logits ``[R, C]``, both with gradient.

    Raises:
        SkdError: the classifier does not get one feature vector ``[B, D]`` an image.
    """
    head = classifier_of(model)
    network: Any = model
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        features = network.forward_head(network.forward_features(input), pre_logits=True)
        _check_features(model, features, input)
        return features, head(features if expand is None else expand(features))

    seen: list[Tensor] = []

    def before_classifier(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen.append(args[0])
        _check_features(model, args[0], input)
        return None if expand is None else (expand(args[0]),)

    handle = head.register_forward_pre_hook(before_classifier)
    try:
        logits = model(input)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise SkdError(f"{type(model).__name__} calls its last linear layer {len(seen)} times in one pass, not once")
    return seen[0], logits


def _check_features(model: nn.Module, features: Tensor, input: Tensor) -> None:
    if features.ndim != 2 or features.shape[0] != input.shape[0]:
        raise SkdError(
            f"{type(model).__name__} gives its classifier features of shape {list(features.shape)}, "
            f"not [{input.shape[0]}, D]; methods that use features need one vector an image"
        )


@torch.no_grad()
def features_of(model: nn.Module, input: Tensor) -> tuple[Tensor, Tensor]:
    """`forward_with_features` without gradient: ``(features [B, D], logits [B, C])``."""
    return forward_with_features(model, input)
