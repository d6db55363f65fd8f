"""Standard dropout before the classifier, a baseline for SD-Dropout."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..losses import dropped, full_precision
from ..networks.features import extra_rows
from .method import Criterion, DropRate, Method, register_method


@register_method("dropout")
class Dropout(Method):
    """Standard dropout (Srivastava et al. 2014) of the features before the classifier: ``loss = CE(W dropout(f), y)``.

    ``samples=2`` is our reading of the dagger in SD-Dropout's Table 11, "equalizes the number of training steps
    compared to SD-Dropout": a step of SD-Dropout trains the classifier on two dropped samples of each image, so here
    each step takes the mean cross-entropy of two as well. The paper says no more, and the authors' code does not have
    it.

    Source: SD-Dropout (Lee et al. 2022), section 4.6.3 and Table 11; the authors' code (yechanp/self_kd,
        models/methods.py: Base_Dropout), p = 0.5 there.
    Deviation: loss and gradients equal that code's with its weight at 1 (float64, ResNet-18, 5 draws). That code
        multiplies the loss by its weight of SD-Dropout, 0.1 by default; we leave this out. ``output`` is the network's
        own, without dropout.
    Logs: ``ce``, of the dropped features.

    Args:
        samples: dropped samples of each image; the loss is their mean cross-entropy.
    """

    only_criterion = True
    refuses: Mapping[str, str] = {"sd_dropout": "it drops the same features already"}

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        drop_rate: DropRate = 0.5,
        samples: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__(model, criterion)
        self.drop_rate, self.samples = drop_rate, samples

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        with extra_rows(self.model, lambda features: dropped(features, self.drop_rate, self.samples)) as extra:
            out, _ = self.anchor_forward(input)
        samples = full_precision(extra[0]).chunk(self.samples)
        ce = torch.stack([self.criterion(logits, target) for logits in samples]).mean()
        return out | {"loss": ce, "ce": ce.detach()}
