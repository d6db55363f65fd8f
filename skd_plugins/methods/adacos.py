"""AdaCos: a cosine classifier whose scale follows the training."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.gather import gather_rows
from ..networks.classifiers import CosineClassifier
from ..networks.create import classifier_of
from .method import NEEDS_INDICES, NEEDS_SOFTMAX, Criterion, Method, register_method


@register_method("adacos")
class AdaCos(Method):
    """AdaCos (Zhang et al. 2019): cross-entropy of cosines times a scale that is updated in every step.

    ``scale = log(B_avg) / cos(min(pi / 4, theta_med))``: B_avg is the batch's mean of ``sum_{k != y} exp(s cos_k)``
    with the previous step's scale s; theta_med is the median angle between the features and the weights of their class.
    Both are computed over all processes. The loss uses the new scale, ``output`` the previous one.

    The network's classifier is a `CosineClassifier`: ``create_model(..., classifier="cosine")``, in a recipe
    ``model_args=dict(classifier="cosine")``. The card records it, so exported weights load correctly. The
    scale is a buffer of the network, and the network's logits are scaled; divide them by ``get_classifier().scale`` for
    plain cosines (the calibration in CS-KD's Table 6 seems to be theirs).

    Source: Zhang et al. 2019 (AdaCos), the dynamic version; the code that CS-KD names
        (4uiiurz1/pytorch-adacos, metrics.py).
    Deviation: none in the loss. Compared with that code (float64, 20 steps) the loss is equal, gradients differ by at
        most 4.3e-16 and scales by 2.2e-16. That code evaluates plain cosines, and each of its processes has its own
        scale.
    Logs: ``ce`` and ``scale``.
    """

    classifier = "cosine"
    refuses: Mapping[str, str] = {
        "mixup": f"adacos {NEEDS_INDICES}",
        "bce": f"adacos {NEEDS_SOFTMAX}",
        "sd_dropout": "its classifier normalises the features' length, which dropout's scaling is about",
    }

    def __init__(self, model: nn.Module, criterion: Criterion = None) -> None:
        super().__init__(model, criterion)
        if not isinstance(classifier_of(model), CosineClassifier):
            raise SkdError(
                "adacos needs a network with a cosine classifier: create_model(..., classifier='cosine'), in a recipe "
                'model_args={"classifier": "cosine"}'
            )

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        labels = self.class_indices(target)
        head = classifier_of(self.model)
        assert isinstance(head, CosineClassifier)
        before = head.scale.clone()
        out, logits = self.anchor_forward(input)
        cosines = logits / before
        scale = adaptive_scale(cosines.detach(), labels, before)
        if self.training:
            head.scale.copy_(scale)
        ce = self.criterion(cosines * scale, labels)
        return out | {"loss": ce, "ce": ce.detach(), "scale": scale}


@torch.no_grad()
def adaptive_scale(cosines: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The scale of a step, from this process's cosines ``[B, C]`` and class indices ``[B]`` and the previous scale."""
    own = cosines.gather(1, labels[:, None])[:, 0]
    others = (scale * cosines).exp().sum(dim=1) - (scale * own).exp()
    others, own = gather_rows(torch.stack([others, own], dim=1)).T.contiguous().unbind()
    median = own.clamp(-1 + 1e-7, 1 - 1e-7).acos().median()  # torch takes the lower of the two in the middle
    return others.mean().log() / median.clamp(max=math.pi / 4).cos()
