"""BYOT: the last stage teaches classifiers at the earlier ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import SkdError
from ..losses import full_precision, sum_of_divergences
from ..networks.create import num_classes_of, num_features_of
from ..networks.stages import StageTap, stage_modules, stage_shapes, watching
from .method import Criterion, Method, Temperature, Weight, register_method


@register_method("byot")
class BYOT(Method):
    """BYOT (Zhang et al. 2019): be your own teacher, with a classifier after each of the first three stages.

    ``loss = CE(p, y) + sum_i [ce_weight * CE(p_i, y) + kd_weight * T^2 * KL(p || p_i) + feature_weight * MSE(f_i, f)]``
    over the branches i after the stages 1 to 3; p and f, the network's own prediction and features, are detached in the
    last two terms. A branch is a bottleneck that ends with the network's number of features and the size of its last
    stage's maps, pooling, and a linear layer. The branches exist only in training.

    Source: Zhang et al. 2019 (BYOT); values and branches from the authors' code of SD-Dropout
        (yechanp/self_kd, models/methods.py: BYOT; models/resnet.py: Multi_ResNet), T = 3, 0.9, 0.1 and 1e-6.
    Deviation: none from that code's loss. Compared with it (float64, its byot_resnet18, 16 images of 64 px, 5 draws)
        the loss differs by at most 2.2e-16, the gradients by 7.0e-15; with sd_dropout by 2.2e-16 and 8.5e-15. Other
        networks have the stages of `stage_modules`. That code makes further convolutions and never uses them; they are
        left out.
    Logs: ``ce`` and, summed over the branches, ``branch_ce``, ``kd`` and ``feature``.

    Args:
        model: has four stages, see `stage_modules`.
        ce_weight: ``1 - alpha`` in the paper.
        kd_weight: alpha in the paper.
        feature_weight: lambda in the paper.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion = None,
        *,
        ce_weight: Weight = 0.9,
        kd_weight: Weight = 0.1,
        feature_weight: Weight = 1e-6,
        temperature: Temperature = 3.0,
    ) -> None:
        super().__init__(model, criterion)
        self.ce_weight, self.kd_weight, self.feature_weight = ce_weight, kd_weight, feature_weight
        self.temperature = temperature
        self.branches = stage_classifiers(model)
        self._taps = [StageTap(model, name) for name in stage_modules(model)[:3]]

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        with watching(*self._taps):
            out, logits = self.anchor_forward(input)
        features = full_precision(out["features"]).detach()
        ce = self.criterion(logits, target)
        branches = [branch(tap.take()) for branch, tap in zip(self.branches, self._taps, strict=True)]
        branch_ce = torch.stack([self.criterion(full_precision(z), target) for _, z in branches]).sum()
        kd = sum_of_divergences([(logits.detach(), z) for _, z in branches], self.temperature)
        feature = torch.stack([F.mse_loss(full_precision(f), features) for f, _ in branches]).sum()
        loss = ce + self.ce_weight * branch_ce + self.kd_weight * kd + self.feature_weight * feature
        terms = {"ce": ce, "branch_ce": branch_ce, "kd": kd, "feature": feature}
        return out | {"loss": loss} | {name: value.detach() for name, value in terms.items()}


def stage_classifiers(model: nn.Module) -> nn.ModuleList:
    """A new `Branch` for each of the stages 1 to 3."""
    *stages, (_, last_side) = stage_shapes(model)
    features, classes = num_features_of(model), num_classes_of(model)
    branches = [Branch(channels, features, classes, side // last_side) for channels, side in stages]
    return nn.ModuleList(branches).to(next(model.parameters()))  # its device and dtype


class Branch(nn.Module):
    """A bottleneck, pooling and a classifier: a stage's maps to features ``[B, D]`` and logits ``[B, C]``.

    `shrink` is the ratio of the maps' side to the last stage's.
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
        if min(maps.shape[2:]) < self.shrink:
            raise SkdError(
                f"image_size is too small, a stage's maps of {maps.shape[2]} x {maps.shape[3]} can't be made "
                f"{self.shrink} times smaller; take a larger image_size"
            )
        features = self.bottleneck(maps).mean(dim=(2, 3))
        return features, self.fc(features)
