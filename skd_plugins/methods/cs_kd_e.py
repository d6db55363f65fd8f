"""CS-KD-E: CS-KD, and predictions should not depend on the augmentation."""

import torch
from torch import Tensor, nn

from ..losses import kl_divergence
from .method import Criterion, Method, Temperature, Weight, register_method


@register_method("cs_kd_e")
class CSKDE(Method):
    """CS-KD-E (Yun et al. 2020, section 3.4): CS-KD combined with sample-wise regularisation.

    ``loss = CE(x_aug, y) + T^2 * [weight * KL(P(x'_aug) || P(x_aug)) + clean_weight * KL(P(x) || P(x_aug))]``: x' is
    another image of the class as in `cs_kd`; x is the anchor without augmentation, the evaluation's centre crop. The
    paper calls the weights lambda_cls and lambda_E. Pairs and clean images each get their own pass after the anchors',
    without gradient and in train mode, so BatchNorm sees three batches.

    Source: the last equation of section 3.4. The authors' code does not have it; pair and clean are treated alike.
    Deviation: none known. The paper does not give lambda_E and T, nor say what the un-augmented image is: 1, T of
        `cs_kd`, and the evaluation's crop are ours.
    Logs: ``ce``, ``kd`` and ``clean``.
    """

    segments = ("anchor", "pair", "clean")
    passes = (1, 2)

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        weight: Weight = 1.0,
        clean_weight: Weight = 1.0,
        temperature: Temperature = 4.0,
    ) -> None:
        super().__init__(model, criterion)
        self.weight, self.clean_weight, self.temperature = weight, clean_weight, temperature

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        (anchors, pairs, unaugmented), targets = self.split(input, target)
        out, logits = self.anchor_forward(anchors)
        ce = self.criterion(logits, targets[0])
        with torch.no_grad():
            pair_logits, clean_logits = self.model(pairs), self.model(unaugmented)
        kd = kl_divergence(pair_logits, logits, self.temperature)
        clean = kl_divergence(clean_logits, logits, self.temperature)
        loss = ce + self.weight * kd + self.clean_weight * clean
        return out | {"loss": loss, "ce": ce.detach(), "kd": kd.detach(), "clean": clean.detach()}
