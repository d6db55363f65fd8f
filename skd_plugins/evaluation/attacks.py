"""Adversarial examples for `predict`: ``predict(model, loader, perturb=FGSM(eps=8 / 255, mean=..., std=...))``."""

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
    """

    eps: float  # the budget in [0, 1] pixel units (8 / 255 is common); in normalised units if `legacy`
    legacy: bool = False  # attack like the authors' script, to compare with the paper

    def __post_init__(self) -> None:
        if not self.legacy:
            check_eps(self.eps, "FGSM")

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The perturbed input."""
        if self.legacy:
            gradient = input_gradient(
                model, input, lambda logits: F.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
            )
            return input + ((input + self.eps * gradient.sign()).clamp(0, 1) - input).clamp(-self.eps, self.eps)
        # The gradient with respect to pixels differs by a positive factor only, so its sign is the same.
        gradient = input_gradient(model, input, lambda logits: F.cross_entropy(logits, target, reduction="sum"))
        return self.from_pixels((self.to_pixels(input) + self.eps * gradient.sign()).clamp(0, 1))


@dataclass(frozen=True, kw_only=True)
class PGD(Normalised):
    """Projected gradient descent: signed steps up the loss of the true labels, projected to the budget and [0, 1].

    Source: Madry et al. 2018, section 2.1; its evaluation on CIFAR-10 takes 20 steps of 2/255 with eps 8/255.
    The random start is uniform in the budget and depends on the seed and the image, not on its batch.
    """

    eps: float  # the budget in [0, 1] pixel units
    steps: int = 20
    step_size: float | None = None  # in pixel units; None: eps / 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_eps(self.eps, "PGD")

    def __call__(self, model: nn.Module, input: Tensor, target: Tensor) -> Tensor:
        """The perturbed input."""
        start = self.to_pixels(input)
        step_size = self.eps / 4 if self.step_size is None else self.step_size
        generators = [generator_of(image, self.seed, "pgd") for image in to_uint8(start)]
        noise = np.stack([draw.uniform(-self.eps, self.eps, start.shape[1:]) for draw in generators])
        pixels = (start + torch.from_numpy(noise).to(start)).clamp(0, 1)
        for _ in range(self.steps):
            gradient = input_gradient(
                model, self.from_pixels(pixels), lambda logits: F.cross_entropy(logits, target, reduction="sum")
            )
            change = (pixels + step_size * gradient.sign() - start).clamp(-self.eps, self.eps)
            pixels = (start + change).clamp(0, 1)
        return self.from_pixels(pixels)


def input_gradient(model: nn.Module, input: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of a loss with respect to the input, in evaluation mode. It leaves no gradients at parameters.

    The loss maps logits ``[B, C]`` to the *sum* of the images' losses, so the batch size changes no gradient.
    """
    with evaluation_mode(model), torch.enable_grad():
        leaf = input.detach().requires_grad_()
        return torch.autograd.grad(loss(model(leaf)), leaf)[0]


def check_eps(eps: float, what: str) -> None:
    """Raises if eps is given in 255 levels instead of [0, 1], a common mistake."""
    if not 0 <= eps <= 1:
        raise SkdError(f"{what} takes eps in [0, 1] pixel units, got {eps:g}; for 8 of 255 levels give 8/255 (0.0314)")
