"""CS-KD: predictions of one class should agree between its images."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..losses import ClassBank, cs_kd_loss, next_of_class
from ..networks.create import num_classes_of
from .method import NEEDS_INDICES, Criterion, Method, Temperature, Weight, register_method


@register_method("cs_kd")
class CSKD(Method):
    """CS-KD (Yun et al. 2020, Eq. 1): class-wise self-knowledge distillation.

    ``loss = CE(x, y) + weight * T^2 * KL(P(. | x'; T) || P(. | x; T))`` where x' is another image of x's class and no
    gradient flows through its prediction. The paper's lambda_cls is `weight`. `pairing` says where x' comes from:

    * ``sampled``, the paper's: the loader draws x' uniformly from the class (it may draw x itself, which then gets
      another augmentation). The batch is ``[B anchors | B pairs]``. The pairs get their own forward pass after
      the anchors', without gradient and in train mode, so BatchNorm sees two batches and updates its statistics twice.
    * ``batch``, ours: x' is the next image of the class in this batch, cyclically. The loader puts
      at least two of each class into a batch. No second forward pass; an image without a partner adds no term.
    * ``bank``, ours: the prediction of x' is the most recent logits seen of the class, kept in a ``[C, C]`` buffer that
      is saved with the task. No second forward pass, no special sampling; a class's first visit adds no term. With
      several processes, each stores the logits of all of them.

    The KL is averaged over all B anchors, including those without a term, so `weight` means the same everywhere.

    Source: Eq. 1 and Algorithm 1; the authors' code (alinlab/cs-kd, train.py: KDLoss and the two passes; datasets.py:
        PairBatchSampler). T = 4 and weight 1 are its defaults.
    Deviation: none for ``sampled``. ``batch`` and ``bank`` are not in the paper: the same loss at cross-entropy's cost.
        With mixup (section 3.2) anchors and pairs are mixed with the same permutation and coefficient.
    Logs: ``ce`` and ``kd``.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        pairing: Literal["sampled", "batch", "bank"] = "sampled",
    ) -> None:
        super().__init__(model, criterion)
        self.weight, self.temperature, self.pairing = weight, temperature, pairing
        if pairing == "sampled":
            self.segments = ("anchor", "pair")
            self.passes = (1, 1)
            return
        self.refuses = {"mixup": f"cs_kd with pairing={pairing!r} {NEEDS_INDICES}"}
        if pairing == "batch":
            self.couples = True
        else:
            self.replicated = ("bank",)
            self.bank = ClassBank(num_classes_of(model), next(model.parameters()).device)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        inputs, targets = self.split(input, target)
        out, logits = self.anchor_forward(inputs[0])
        ce = self.criterion(logits, targets[0])
        kd = self._distill(logits, inputs, targets)
        return out | {"loss": ce + self.weight * kd, "ce": ce.detach(), "kd": kd.detach()}

    def _distill(self, logits: Tensor, inputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        if self.pairing == "sampled":
            with torch.no_grad():
                pair_logits = self.model(inputs[1])
            return cs_kd_loss(logits, pair_logits, self.temperature)
        labels = self.class_indices(targets[0])
        if self.pairing == "bank":
            return cs_kd_loss(logits, self.bank(logits, labels), self.temperature)
        partner, found = next_of_class(labels)
        fixed = logits.detach()
        # Without a partner, the anchor's own detached prediction stands in: its divergence and gradient are 0.
        return cs_kd_loss(logits, torch.where(found[:, None], fixed[partner], fixed), self.temperature)
