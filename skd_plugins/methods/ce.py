"""Cross-entropy, the baseline of both papers."""

from torch import Tensor

from .method import Method, register_method


@register_method("ce")
class CE(Method):
    """Cross-entropy, or the criterion given, alone: the baseline in Table 1 of Yun et al. 2020 and of Lee et al. 2022.

    Source: CS-KD (Yun et al. 2020), Table 1; SD-Dropout (Lee et al. 2022), Table 1.
    Logs: ``ce``.
    """

    only_criterion = True

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        out, logits = self.anchor_forward(input)
        ce = self.criterion(logits, target)
        return out | {"loss": ce, "ce": ce.detach()}
