"""Online label smoothing: each class's soft label is its mean correct prediction of the last epoch."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..common.gather import gather_rows
from ..networks.create import num_classes_of
from .method import NEEDS_INDICES, NEEDS_SOFTMAX, Criterion, Method, register_method


@register_method("ols")
class OLS(Method):
    """OLS (Zhang et al. 2021): online label smoothing, with soft labels that the network makes of its own predictions.

    ``loss = (1 - weight) * CE(y, p) + weight * H(S_y, p)``. S_y is the mean softmax of the last epoch's images of class
    y that the network classified correctly in training; it is uniform in the first epoch, and for a class without such
    images. S and the sums for the next one are two ``[C, C]`` buffers (8 MB for 1,000 classes), saved with the task.
    With several processes, each sums the predictions of all of them.

    Source: Zhang et al. 2021 (Delving Deep into Label Smoothing); the authors' code (zhangchbin/OnlineLabelSmoothing,
        cifar/scripts/train_cifar_all_methods.py and fine-grained/solver.py), weight 0.5.
    Deviation: none from the first of these files, but that its S is 0 in the first epoch, so that there is no soft
        label; in the second it is uniform, as here. That one also weights both terms by 1, and keeps S_y once its
        largest entry is 0.88.
    Logs: ``ce`` and ``soft``, both unweighted.

    Args:
        weight: ``1 - alpha`` in the paper.
    """

    soft_labels: Tensor
    sums: Tensor
    counts: Tensor
    epoch: Tensor
    needs_epoch = True
    refuses: Mapping[str, str] = {"mixup": f"ols {NEEDS_INDICES}", "bce": f"ols {NEEDS_SOFTMAX}"}

    def __init__(
        self, model: nn.Module, criterion: Criterion = None, *, weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    ) -> None:
        super().__init__(model, criterion)
        self.weight = weight
        classes, device = num_classes_of(model), next(model.parameters()).device
        self.register_buffer("soft_labels", torch.full((classes, classes), 1 / classes, device=device))
        self.register_buffer("sums", torch.zeros(classes, classes, device=device))
        self.register_buffer("counts", torch.zeros(classes, device=device))
        self.register_buffer("epoch", torch.tensor(-1, device=device))

    @torch.no_grad()
    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Makes the soft labels of what was summed, unless a run is resumed within this epoch."""
        if int(self.epoch) != epoch:
            mean = self.sums / self.counts[:, None]
            self.soft_labels.copy_(torch.where(self.counts[:, None] > 0, mean, 1 / len(mean)))
            self.sums.zero_()
            self.counts.zero_()
        self.epoch.fill_(epoch)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        labels = self.class_indices(target)
        out, logits = self.anchor_forward(input)
        ce = self.criterion(logits, labels)
        soft = -(self.soft_labels[labels] * logits.log_softmax(dim=1)).sum(dim=1).mean()
        if self.training:
            self._remember(gather_rows(logits.detach().softmax(dim=1)), gather_rows(labels))
        loss = (1 - self.weight) * ce + self.weight * soft
        return out | {"loss": loss, "ce": ce.detach(), "soft": soft.detach()}

    def _remember(self, predictions: Tensor, labels: Tensor) -> None:
        right = (predictions.argmax(dim=1) == labels).to(self.sums.dtype)
        self.sums.index_add_(0, labels, right[:, None] * predictions.to(self.sums.dtype))
        self.counts.index_add_(0, labels, right)
