"""BAKE: an image's soft target is an ensemble of the batch's predictions, by the likeness of their features."""

from contextlib import nullcontext
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..common.gather import gather_rows, rows_before
from ..losses import full_precision
from .method import Criterion, Method, Temperature, Weight, register_method


@register_method("bake")
class BAKE(Method):
    """BAKE (Ge et al. 2021): batch knowledge ensembling.

    ``loss = CE + weight * T^2 * KL(q || p)`` with the detached soft targets ``q = (1 - omega) * (I - omega * A)^-1 p``;
    p is the batch's predictions at temperature T. A's row i is the softmax over the other images of the cosines between
    their features and image i's. All images of the batch have both terms. `pairing` puts images of a class together:

    * ``sampled``, the authors': the batch is ``[B anchors | B pairs]``, and goes through the network as one.
    * ``batch``, ours: the loader puts at least two images of each class into a batch. No second pass.

    With several processes, the ensemble is of all their images.

    Source: Ge et al. 2021; the authors' code (yxgeee/BAKE, imagenet/pycls/core/trainer.py: knowledge_ensemble with
        GLOBAL_KE; small_scale/train.py), T = 4, omega = 0.5 and weight 1.
    Deviation: none in the loss. A pair is one image, as in that code's M = 1 (ImageNet, TinyImageNet, Dogs, MIT67);
        CIFAR-100 and CUB have M = 3 there. Our loader may draw the anchor itself, with another crop. That code divides
        its batch size by M + 1, here `batch_size` counts anchors, so halve it for the same number of images in a step.
    Logs: ``ce`` and ``kd``.

    Args:
        omega: the share of the other images' predictions; 0.9 on TinyImageNet, Dogs and MIT67 in that code.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        omega: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        pairing: Literal["sampled", "batch"] = "sampled",
    ) -> None:
        super().__init__(model, criterion)
        self.weight, self.temperature, self.omega = weight, temperature, omega
        self.couples = pairing == "batch"
        if pairing == "sampled":
            self.segments, self.passes = ("anchor", "pair"), (2, 0)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        anchors = len(self.split(input, target)[0][0])
        out, logits = self.anchor_forward(input)
        ce = self.criterion(logits, target)
        p = (logits.detach() / self.temperature).softmax(dim=1)
        q = ensembled(gather_rows(full_precision(out["features"]).detach()), gather_rows(p), self.omega)
        first = rows_before(p)
        log_p = (logits / self.temperature).log_softmax(dim=1)
        kd = F.kl_div(log_p, q[first : first + len(p)], reduction="batchmean") * self.temperature**2
        loss = ce + self.weight * kd
        own = {name: both[:anchors] for name, both in out.items()}
        return own | {"loss": loss, "ce": ce.detach(), "kd": kd.detach()}


@torch.no_grad()
def ensembled(features: Tensor, p: Tensor, omega: float) -> Tensor:
    """BAKE's soft targets ``[B, C]``, from features ``[B, D]`` and probabilities ``[B, C]``."""
    # A plan runs on the meta device, which has no autocast.
    with nullcontext() if features.is_meta else torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features)
        eye = torch.eye(len(features), dtype=features.dtype, device=features.device)
        affinity = (features @ features.T).masked_fill(eye.bool(), -torch.inf).softmax(dim=1)
        # `solve` would wait for the device to ask whether the matrix is singular; it is diagonally dominant.
        targets: Tensor = torch.linalg.solve_ex(eye - omega * affinity, (1 - omega) * p).result
        return targets
