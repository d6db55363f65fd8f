"""Classifiers that `create_model(classifier=...)` puts in place of a network's linear one."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import SkdError
from ..losses import full_precision

HIDDEN_UNITS = 512


class CosineClassifier(nn.Linear):
    """``scale * cos(angle between the features and a class's weights)``, without bias, as AdaCos needs it.

    The scale is a buffer, so it is saved and exported with the network, and the logits are scaled everywhere.

    Source: Zhang et al. 2019 (AdaCos) and 4uiiurz1/pytorch-adacos, metrics.py: the scale starts at
        ``sqrt(2) * log(C - 1)``, which is 0 for two classes.
    """

    scale: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        if out_features < 3:
            raise SkdError(f"a cosine classifier needs three classes or more, got {out_features}")
        super().__init__(in_features, out_features, bias=False)
        nn.init.xavier_uniform_(self.weight)
        self.register_buffer("scale", torch.tensor(math.sqrt(2) * math.log(out_features - 1)))

    def forward(self, input: Tensor) -> Tensor:
        """Features ``[B, D]`` to logits ``[B, C]``."""
        # A copy of the scale: AdaCos writes the next one before the backward pass.
        return F.linear(_unit(input), _unit(self.weight)) * self.scale.clone()


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, or of zeros; in float32, since `F.normalize`'s ``eps`` is 0 in float16."""
    return F.normalize(full_precision(rows)).to(rows.dtype)


class MLPClassifier(nn.Sequential):
    """Two linear layers with 512 hidden units between them.

    Source: SD-Dropout (Lee et al. 2022), section 4.6.5 and Table 13. The paper does not name the activation; it is a
        ReLU here.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, out_features))
        self.in_features, self.out_features = in_features, out_features


CLASSIFIERS: dict[str, type[CosineClassifier] | type[MLPClassifier]] = {
    "cosine": CosineClassifier,
    "mlp": MLPClassifier,
}
