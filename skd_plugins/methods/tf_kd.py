"""Tf-KD: a designed distribution, confident and flat, stands in for the teacher."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from ..losses import tf_kd_loss
from .method import NEEDS_SOFTMAX, Criterion, Method, Temperature, Weight, register_method


@register_method("tf_kd")
class TfKD(Method):
    """Tf-KD_reg (Yuan et al. 2020, section 5): knowledge distillation from a designed teacher.

    ``loss = (1 - alpha) * CE + alpha * weight * KL(p_d || p)`` with ``p_d = softmax(q / temperature)``. q is `correct`
    for the image's class and ``(1 - correct) / (C - 1)`` for every other one. Label smoothing has no such temperature:
    at T = 20 and 100 classes, p_d gives 1.05 % to the image's class and 1.00 % to each other one.

    Source: Yuan et al. 2020, section 5; the authors' code (yuanli2333/Teacher-free-Knowledge-Distillation,
        my_loss_function.py: loss_kd_regularization). Its values for ResNet-18 on CIFAR-100 are the defaults: T = 20,
        alpha = 0.1, a probability of 0.99, and its multiplier 100 is our weight 1.
    Deviation: none from that code, which softens the teacher only and divides the divergence by B * C; its multiplier
        is our ``weight * C``. With mixup, q is of the mixed labels, which is ours.
    Logs: ``ce`` and ``kd``.

    Args:
        alpha: the divergence's share; the criterion has the rest.
        weight: of the divergence beside it. That code has 0.5 for GoogLeNet (T = 40).
        correct: q of the image's class.
    """

    refuses: Mapping[str, str] = {"bce": f"tf_kd {NEEDS_SOFTMAX}"}

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.1,
        weight: Weight = 1.0,
        temperature: Temperature = 20.0,
        correct: Annotated[float, Field(gt=0, lt=1)] = 0.99,
    ) -> None:
        super().__init__(model, criterion)
        self.alpha, self.weight, self.temperature, self.correct = alpha, weight, temperature, correct

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        out, logits = self.anchor_forward(input)
        ce = self.criterion(logits, target)
        kd = tf_kd_loss(logits, target, self.temperature, self.correct)
        loss = (1 - self.alpha) * ce + self.alpha * self.weight * kd
        return out | {"loss": loss, "ce": ce.detach(), "kd": kd.detach()}
