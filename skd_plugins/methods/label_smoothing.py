"""Label smoothing, a baseline of both papers."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import nn

from ..common.errors import SkdError
from .ce import CE
from .method import Criterion, register_method


@register_method("label_smoothing")
class LabelSmoothing(CE):
    """Label smoothing (Szegedy et al. 2016, section 7): cross-entropy with targets moved towards uniform.

    ``loss = -sum_k q_k log p_k`` with ``q = (1 - label_smoothing) * onehot(y) + label_smoothing / C``.

    Source: Szegedy et al. 2016, section 7; the authors' code of SD-Dropout (yechanp/self_kd, models/methods.py:
        LabelSmoothingCrossEntropy), 0.1.
    Deviation: none. Compared with that code (float64, ResNet-18, 16 images of 64 px, 5 draws) the loss differs by at
        most 2.2e-16 of it, and the gradients are equal; with sd_dropout by 2.2e-16 and 6.6e-15.
    Logs: ``ce``, of the smoothed targets.

    Args:
        criterion: None or plain cross-entropy; this method brings its own.
    """

    refuses: Mapping[str, str] = {
        "bce": "label_smoothing brings its own cross-entropy; for binary cross-entropy take ce with the recipe's "
        "label_smoothing"
    }

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        plain = isinstance(criterion, nn.CrossEntropyLoss) and criterion.label_smoothing == 0
        if criterion is not None and not plain:
            raise SkdError(
                "label_smoothing brings its own cross-entropy, but another criterion is set already; leave out the "
                "recipe's label_smoothing (timm's train.py: --smoothing 0, torchvision's: --label-smoothing 0)"
            )
        super().__init__(model, nn.CrossEntropyLoss(label_smoothing=label_smoothing))
