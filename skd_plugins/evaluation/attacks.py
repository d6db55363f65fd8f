"""Adversarial examples for `predict`: ``predict(model, loader, perturb=FGSM(eps=8 / 255, mean=..., std=...))``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import SkdError
from .pixels import Normalised, generator_of, to_uint8
from .predictions import evaluation_mode


@dataclass(frozen=True, kw_only=True)
class FGSM(Normalised):
    """The fast gradient sign method: one step of `eps` up the loss of the true labels, within [0, 1].

    ``x' = clip(x + eps * sign(grad_x CE(model(x), y)), 0, 1)`` for pixels x in [0, 1]; the network gets x' normalised.

    Source: Goodfellow et al. 2015; SD-Dropout section 4.4.1 and Table 5 (eps 0.2, without a unit).
    Deviation: SD-Dropout's numbers are not FGSM in pixel space. `legacy` computes what its authors' script does
        (yechanp/self_kd ``_3_adv_robust.py``, with ART's ``FastGradientMethod``): eps is in *normalised* units, labels
        are the model's *predictions*, and the result is clipped to (0, 1) *in normalised units* and then projected to
        within eps of the input. So a value below -eps always rises by eps and one above 1 + eps always falls by eps,
        whatever the gradient.

    Attributes:
        eps: the budget in [0, 1] pixel units (8 / 255 is common); in normalised units if `legacy`.
        legacy: attack like the authors' script, to compare with the paper.
    """

    eps: float
    legacy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self.eps, "FGSM", high=float("inf") if self.legacy else 1.0)

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The perturbed input."""
        if self.legacy:
            step = self.eps * input_gradient(model, input, _predicted_loss).sign()
            return input + ((input + step).clamp(0, 1) - input).clamp(-self.eps, self.eps)
        # The gradient with respect to pixels differs by a positive factor only, so its sign is the same.
        gradient = input_gradient(model, input, lambda logits: F.cross_entropy(logits, target, reduction="sum"))
        return self.from_pixels((self.to_pixels(input) + self.eps * gradient.sign()).clamp(0, 1))


@dataclass(frozen=True, kw_only=True)
class PGD(Normalised):
    """Projected gradient descent: signed steps up the loss of the true labels, projected to the budget and [0, 1].

    Source: Madry et al. 2018, section 2.1; its evaluation on CIFAR-10 takes 20 steps of 2/255 with eps 8/255.

    Attributes:
        eps: the budget in [0, 1] pixel units.
        steps: number of steps.
        step_size: in pixel units; ``eps / 4`` when None.
        seed: of the random start, uniform in the budget, which depends on the seed and the image, not on its batch.
            None starts at the image itself.
    """

    eps: float
    steps: int = 20
    step_size: float | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self.eps, "PGD")
        if self.steps < 1 or (self.step_size is not None and not 0 < self.step_size <= 1):
            raise SkdError(f"PGD needs at least one step of a size in (0, 1], got {self.steps} of {self.step_size}")

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The perturbed input."""
        start = self.to_pixels(input)
        step_size = self.eps / 4 if self.step_size is None else self.step_size
        pixels = start if self.seed is None else (start + self._noise(start, self.seed)).clamp(0, 1)
        for _ in range(self.steps):
            gradient = input_gradient(
                model, self.from_pixels(pixels), lambda logits: F.cross_entropy(logits, target, reduction="sum")
            )
            change = (pixels + step_size * gradient.sign() - start).clamp(-self.eps, self.eps)
            pixels = (start + change).clamp(0, 1)
        return self.from_pixels(pixels)

    def _noise(self, pixels: Tensor, seed: int) -> Tensor:
        shape = tuple(pixels.shape[1:])
        draws = [generator_of(image, seed, "pgd").uniform(-self.eps, self.eps, shape) for image in to_uint8(pixels)]
        return torch.from_numpy(np.stack(draws)).to(pixels)


def input_gradient(model: nn.Module, input: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of a loss with respect to the input, in evaluation mode. It leaves no gradients at parameters.

    Args:
        model: a classifier.
        input: ``[B, C, H, W]``.
        loss: maps logits ``[B, C]`` to the *sum* of the images' losses, so the batch size changes no gradient.
    """
    with evaluation_mode(model), torch.enable_grad():
        leaf = input.detach().requires_grad_()
        return torch.autograd.grad(loss(model(leaf)), leaf)[0]


def check_eps(eps: float, what: str, high: float = 1.0) -> None:
    """An eps in 255 levels instead of [0, 1] is the common mistake."""
    if not 0 <= eps <= high or eps == float("inf"):
        raise SkdError(f"{what} takes eps in [0, 1] pixel units, got {eps:g}; for 8 of 255 levels give 8/255 (0.0314)")


def _predicted_loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
