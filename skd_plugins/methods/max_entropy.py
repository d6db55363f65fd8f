"""Maximum entropy: confident predictions are penalised."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..losses import mean_entropy
from .method import NEEDS_SOFTMAX, Criterion, Method, Weight, register_method


@register_method("max_entropy")
class MaxEntropy(Method):
    """Maximum entropy (Pereyra et al. 2017, Dubey et al. 2018): ``loss = CE - weight * H(p)``.

    ``H(p) = -sum_k p_k log p_k`` of the softmax at temperature 1, averaged over the batch. The loss can be negative.

    Source: Pereyra et al. 2017 (confidence penalty); Dubey et al. 2018 (fine-grained classification). A baseline of
        CS-KD, which gives neither weight nor code.
    Deviation: none. The weight 0.1 is Pereyra's for CIFAR-10; Dubey has 1. The calibration in CS-KD's Table 6 suggests
        a strong weight.
    Logs: ``ce`` and ``entropy``.

    Args:
        weight: beta of Pereyra, gamma of Dubey.
    """

    refuses: Mapping[str, str] = {"bce": f"max_entropy {NEEDS_SOFTMAX}"}

    def __init__(self, model: nn.Module, criterion: Criterion = None, *, weight: Weight = 0.1) -> None:
        super().__init__(model, criterion)
        self.weight = weight

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        out, logits = self.anchor_forward(input)
        ce = self.criterion(logits, target)
        entropy = mean_entropy(logits)
        return out | {"loss": ce - self.weight * entropy, "ce": ce.detach(), "entropy": entropy.detach()}
