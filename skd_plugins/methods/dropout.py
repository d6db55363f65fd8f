"""Standard dropout before the classifier, what SD-Dropout is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .losses import dropped
from .method import Method, at_least, rate_of_dropout, register_method


@register_method("dropout")
class Dropout(Method):
    """Standard dropout (Srivastava et al. 2014) of the features before the classifier: ``loss = CE(W dropout(f), y)``.

    ``samples=2`` is our reading of the dagger in SD-Dropout's Table 11, "equalizes the number of training steps
    compared to SD-Dropout": a step of SD-Dropout trains the classifier on two dropped samples of each image, so here
    each step has the mean cross-entropy of two, too. The paper says no more, and the authors' code has nothing of the
    kind.

    Source: SD-Dropout (Lee et al. 2022), section 4.6.3 and Table 11; the authors' code (yechanp/self_kd,
        models/methods.py: Base_Dropout), p = 0.5 there.
    Deviation: with that code's weight at 1 loss and gradients are equal (float64, ResNet-18, 5 draws). It multiplies
        the loss by its weight of SD-Dropout, 0.1 by default, which this leaves out. ``output`` is the network's own,
        without dropout.

    Args:
        model: see `Method`.
        criterion: see `Method`.
        drop_rate: probability to drop a feature, in (0, 1).
        samples: dropped samples of each image, of which the mean cross-entropy is taken.
    """

    refuses: Mapping[str, str] = {"sd_dropout": "it drops the same features already"}

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        drop_rate: float = 0.5,
        samples: int = 1,
    ) -> None:
        super().__init__(model, criterion)
        self.drop_rate = rate_of_dropout(drop_rate, "dropout")
        self.samples = int(at_least(samples, 1, "dropout: samples"))

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.forward`. Adds ``ce``, of the dropped features."""
        out, _ = self.anchor_forward(input, self._with_samples)
        samples = out.pop("extra").chunk(self.samples)
        ce = torch.stack([self.criterion(logits, target) for logits in samples]).mean()
        return out | {"loss": ce, "ce": ce.detach()}

    def _with_samples(self, features: Tensor) -> Tensor:
        return torch.cat([features, *dropped(features, self.drop_rate, self.samples)])
