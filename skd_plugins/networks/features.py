"""The features before a network's classifier, taken while it runs as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from .build import classifier_of


def forward_with_features(
    model: nn.Module, input: Tensor, expand: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Pooled features and logits from one pass through the network's body.

    The network runs as it is, with a hook on the input of its classifier, so the logits are those of its own forward,
    whatever else that does (timm's ``forward_head(pre_logits=True)`` leaves out some networks' last norm).

    Args:
        model: the network.
        input: ``[B, 3, H, W]``.
        expand: maps the features ``[B, D]`` to ``[R, D]`` before the classifier; None leaves them.

    Returns:
        features ``[B, D]`` and logits ``[R, C]``, both with gradient.

    Raises:
        SkdError: the classifier does not get one feature vector ``[B, D]`` an image.
    """
    return tap_classifier(model).run(model, input, expand)


class _ClassifierTap:
    """A hook on the classifier's input that does something only during `run`.

    It stays on the module: one that comes and goes with every step would make torch.compile start anew each time.
    """

    def __init__(self) -> None:
        self.active = False
        self.calls = 0
        self.features: Tensor | None = None
        self.expand: Callable[[Tensor], Tensor] | None = None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not self.active:
            return None
        input = args[0]
        shape = input.shape
        # A convolution gets [B, D, 1, 1].
        self.features = input.flatten(1) if input.ndim == 4 and shape[2:] == (1, 1) else input
        self.calls += 1
        if self.expand is None or self.features.ndim != 2:
            return None
        return (self.expand(self.features).reshape(-1, *shape[1:]),)

    def run(self, model: nn.Module, input: Tensor, expand: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
        self.active, self.calls, self.features, self.expand = True, 0, None, expand
        try:
            logits = model(input)
        except RuntimeError as error:
            if expand is None or not self.calls or isinstance(error, torch.OutOfMemoryError):
                raise
            raise SkdError(
                f"{type(model).__name__} adds something else to what its classifier gives, so no further rows can "
                f"be put through it, as sd_dropout and dropout do ({error}); use another network"
            ) from error
        finally:
            features, self.active, self.features, self.expand = self.features, False, None, None
        if self.calls != 1 or features is None or not isinstance(logits, Tensor):
            raise SkdError(
                f"{type(model).__name__} calls its classifier {self.calls} times in one pass and returns "
                f"{type(logits).__name__}, not once and logits; use a network with one linear classifier"
            )
        _check_features(model, features, input)
        return features, logits


def tap_classifier(model: nn.Module) -> _ClassifierTap:
    """The hook that `forward_with_features` uses, set if it is not there yet."""
    head = classifier_of(model)
    for hook in head._forward_pre_hooks.values():
        if isinstance(hook, _ClassifierTap):
            return hook
    tap = _ClassifierTap()
    head.register_forward_pre_hook(tap)
    return tap


def _check_features(model: nn.Module, features: Tensor, input: Tensor) -> None:
    if features.ndim != 2 or features.shape[0] != input.shape[0]:
        raise SkdError(
            f"{type(model).__name__} gives its classifier features of shape {list(features.shape)}, "
            f"not [{input.shape[0]}, D]; methods that use features need one vector an image"
        )
