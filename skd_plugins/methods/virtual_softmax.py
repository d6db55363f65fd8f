"""Virtual softmax: one more class during training, for which every image is nearly right."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from ..losses import full_precision
from ..networks.create import classifier_of
from .method import NEEDS_INDICES, NEEDS_SOFTMAX, Criterion, Method, register_method


@register_method("virtual_softmax")
class VirtualSoftmax(Method):
    """Virtual softmax (Chen et al. 2018): cross-entropy with a virtual class, in training only.

    The virtual class's weights point along the image's features and are as long as the weights of the image's class:
    ``W_virt = ||W_y|| f / ||f||``. So its logit is ``||W_y|| ||f||``, the largest that this length allows. It stands in
    the softmax's denominator and is never the target. The network itself stays as it is, with a linear classifier.

    Source: Chen et al. 2018 (Virtual Class Enhanced Discriminative Embedding Learning). A baseline of CS-KD,
        which gives no code; none by the authors was found.
    Deviation: the paper's classifier has no bias. If the network's has one, the logits of the classes keep it and the
        virtual one has none. A criterion with label smoothing gives the virtual class its share too.
    Logs: ``ce``, with the virtual class.
    """

    refuses: Mapping[str, str] = {
        "mixup": f"virtual_softmax {NEEDS_INDICES}",
        "bce": f"virtual_softmax {NEEDS_SOFTMAX}",
        "sd_dropout": "whether dropped features have a virtual class is not defined",
    }

    def __init__(self, model: nn.Module, criterion: Criterion = None) -> None:
        super().__init__(model, criterion)
        if type(classifier_of(model)) is not nn.Linear:
            raise SkdError("virtual_softmax needs a network whose classifier is one nn.Linear")

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        out, logits = self.anchor_forward(input)
        labels = self.class_indices(target)
        weight = full_precision(classifier_of(self.model).weight[labels])  # type: ignore[index]  # a parameter
        virtual = weight.norm(dim=1, keepdim=True) * full_precision(out["features"]).norm(dim=1, keepdim=True)
        ce = self.criterion(torch.cat([logits, virtual], dim=1), labels)
        return out | {"loss": ce, "ce": ce.detach()}
