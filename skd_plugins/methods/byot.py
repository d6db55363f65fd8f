"""BYOT: the last stage teaches classifiers at the earlier ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import SkdError
from ..networks.build import classifier_of, num_classes_of
from ..networks.stages import StageTap, stage_modules, stage_shapes, watching
from .losses import full_precision, kl_divergence
from .method import Method, at_least, register_method


@register_method("byot")
class BYOT(Method):
    """BYOT (Zhang et al. 2019): be your own teacher, with a classifier after each of the first three stages.

    ``loss = CE(p, y) + sum_i [ce_weight * CE(p_i, y) + kd_weight * T^2 * KL(p || p_i) + feature_weight * MSE(f_i, f)]``
    over the branches i after the stages 1 to 3; p and f, the network's own prediction and features, are detached in the
    last two terms. A branch is a bottleneck that ends with the network's number of features and the size of its last
    stage's maps, pooling, and a linear layer. The branches are there in training only.

    Source: Zhang et al. 2019 (BYOT); values and branches from the authors' code of SD-Dropout
        (yechanp/self_kd, models/methods.py: BYOT; models/resnet.py: Multi_ResNet), T = 3, 0.9, 0.1 and 1e-6.
    Deviation: none from that code's loss. Beside it (float64, its byot_resnet18, 16 images of 64 px, 5 draws) the
        loss differs by at most 2.2e-16, the gradients by 7.0e-15; with sd_dropout by 2.2e-16 and 8.5e-15. The stages
        of other networks are those of `stage_modules`. The convolutions that it makes beside the bottlenecks and
        never uses are left out.

    Args:
        model: see `Method`; with four stages, see `stage_modules`.
        criterion: see `Method`.
        ce_weight: of the branches' cross-entropy, ``1 - alpha`` in the paper.
        kd_weight: of their divergence, alpha in the paper.
        feature_weight: of their features' distance, lambda in the paper.
        temperature: T.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        ce_weight: float = 0.9,
        kd_weight: float = 0.1,
        feature_weight: float = 1e-6,
        temperature: float = 3.0,
    ) -> None:
        super().__init__(model, criterion)
        self.ce_weight = at_least(ce_weight, 0, "byot: ce_weight")
        self.kd_weight = at_least(kd_weight, 0, "byot: kd_weight")
        self.feature_weight = at_least(feature_weight, 0, "byot: feature_weight")
        self.temperature = at_least(temperature, 0, "byot: temperature", strict=True)
        *stages, (_, last_side) = stage_shapes(model)
        features, classes = number_of_features(model), num_classes_of(model)
        self.branches = nn.ModuleList(
            Branch(channels, features, classes, side // last_side) for channels, side in stages
        ).to(next(model.parameters()).device)
        self._taps = [StageTap(model, name) for name in stage_modules(model)[:3]]

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.forward`. Adds ``ce`` and, summed over the branches, ``branch_ce``, ``kd`` and ``feature``."""
        with watching(*self._taps):
            out, logits = self.anchor_forward(input, expand)
        features = full_precision(out["features"]).detach()
        ce = self.criterion(logits, target)
        branches = [branch(tap.take()) for branch, tap in zip(self.branches, self._taps, strict=True)]
        branch_ce = torch.stack([self.criterion(full_precision(z), target) for _, z in branches]).sum()
        kd = torch.stack([kl_divergence(logits.detach(), z, self.temperature) for _, z in branches]).sum()
        kd = kd * self.temperature**2
        feature = torch.stack([F.mse_loss(full_precision(f), features) for f, _ in branches]).sum()
        loss = ce + self.ce_weight * branch_ce + self.kd_weight * kd + self.feature_weight * feature
        terms = {"ce": ce, "branch_ce": branch_ce, "kd": kd, "feature": feature}
        return out | {"loss": loss} | {name: value.detach() for name, value in terms.items()}


class Branch(nn.Module):
    """A bottleneck, pooling and a classifier: maps ``[B, c, h, w]`` to features ``[B, D]`` and logits ``[B, C]``.

    Args:
        channels: c.
        features: D.
        classes: C.
        shrink: how many times larger the maps' sides are than the last stage's.
    """

    def __init__(self, channels: int, features: int, classes: int, shrink: int) -> None:
        super().__init__()
        middle = max(features // 4, 1)
        self.bottleneck = nn.Sequential(
            nn.Conv2d(channels, middle, 1), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, middle, shrink, stride=shrink), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, features, 1), nn.BatchNorm2d(features), nn.ReLU(),
        )  # fmt: skip
        self.shrink = shrink
        self.fc = nn.Linear(features, classes)
        for layer in self.bottleneck:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        if min(maps.shape[2:]) < self.shrink:
            raise SkdError(
                f"byot: image_size is too small, a stage's maps of {maps.shape[2]} x {maps.shape[3]} can't be made "
                f"{self.shrink} times smaller; take a larger image_size"
            )
        features = self.bottleneck(maps).mean(dim=(2, 3))
        return features, self.fc(features)


def number_of_features(model: nn.Module) -> int:
    """D, what the network's classifier takes."""
    head = classifier_of(model)
    return head.in_channels if isinstance(head, nn.Conv2d) else head.in_features
