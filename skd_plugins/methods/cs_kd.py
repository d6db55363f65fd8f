"""CS-KD: predictions of one class should agree between its images."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..networks.create import classifier_of, num_classes_of
from .losses import kl_divergence
from .method import NEEDS_INDICES, Criterion, Method, Temperature, Weight, gather_rows, register_method


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

    bank: Tensor
    bank_filled: Tensor

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
            classes, device = num_classes_of(model), next(classifier_of(model).parameters()).device
            self.register_buffer("bank", torch.zeros(classes, classes, device=device))
            self.register_buffer("bank_filled", torch.zeros(classes, dtype=torch.bool, device=device))

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
            return kl_divergence(pair_logits, logits, self.temperature)
        labels = self.class_indices(targets[0])
        if self.pairing == "batch":
            partner, has_target = next_of_class(labels)
            pair_logits = logits.detach()[partner]
        else:
            pair_logits, has_target = self.bank[labels], self.bank_filled[labels]
            self._remember(logits.detach(), labels)
        # Where there is no target, the anchor's own detached prediction stands in: its divergence and gradient are 0.
        pair_logits = torch.where(has_target[:, None], pair_logits, logits.detach())
        return kl_divergence(pair_logits, logits, self.temperature)

    def _remember(self, logits: Tensor, labels: Tensor) -> None:
        if not self.training:
            return
        logits, labels = gather_rows(logits), gather_rows(labels)
        # The last image of each class wins; with a plain indexed write, the winner on a GPU would be undefined.
        position = torch.arange(len(labels), device=labels.device)
        last = torch.full((len(self.bank),), -1, device=labels.device).scatter_reduce(0, labels, position, "amax")
        seen = last >= 0
        # Out of place: the old values may still be needed by autograd or a compiled graph.
        self.bank.copy_(torch.where(seen[:, None], logits[last.clamp(min=0)].to(self.bank.dtype), self.bank))
        self.bank_filled.logical_or_(seen)


def next_of_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the position of the next one of its class, cyclically, and whether that is a different image."""
    size = len(labels)
    position = torch.arange(size, device=labels.device)
    distance = (position[None, :] - position[:, None] - 1) % size  # to the right, 0 for the direct neighbour
    distance = torch.where(labels[None, :] == labels[:, None], distance, size)
    partner = distance.argmin(dim=1)
    return partner, partner != position
