"""DKS: the classifiers at all stages teach each other."""

import torch
from torch import Tensor, nn

from ..losses import full_precision, sum_of_divergences
from ..networks.stages import StageTap, stage_modules, watching
from .byot import stage_classifiers
from .method import Criterion, Method, Weight, register_method


@register_method("dks")
class DKS(Method):
    """DKS (Sun et al. 2019): deeply-supervised knowledge synergy between classifiers after all stages.

    ``loss = sum_i CE(p_i, y) + weight * sum_{i != j} KL(p_i || p_j)`` over the network's own prediction and those of
    the branches after the stages 1 to 3. The first argument of each divergence is detached, so each classifier learns
    from all others, in both directions. The branches exist only in training.

    Source: Sun et al. 2019; the authors' code (sundw2014/DKS, wrn_DKS/main.py: the function h), where all weights are 1
        and there is no temperature.
    Deviation: that code adds 1e-8 to all probabilities, and its branches (for WRN-28-10 only) are as deep as the rest
        of the network; ours are those of `byot`, for any network with stages.
    Logs: ``ce`` and, summed over the branches, ``branch_ce``; and ``kd``.

    Args:
        model: has four stages, see `stage_modules`.
    """

    def __init__(self, model: nn.Module, criterion: Criterion = None, *, weight: Weight = 1.0) -> None:
        super().__init__(model, criterion)
        self.weight = weight
        self.branches = stage_classifiers(model)
        self._taps = [StageTap(model, name) for name in stage_modules(model)[:3]]

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        with watching(*self._taps):
            out, logits = self.anchor_forward(input)
        every = [branch(tap.take())[1] for branch, tap in zip(self.branches, self._taps, strict=True)]
        every = [logits, *(full_precision(z) for z in every)]
        losses = torch.stack([self.criterion(z, target) for z in every])
        kd = sum_of_divergences([(a.detach(), b) for a in every for b in every if a is not b], 1.0)
        terms = {"ce": losses[0], "branch_ce": losses[1:].sum(), "kd": kd}
        loss = losses.sum() + self.weight * kd
        return out | {"loss": loss} | {name: value.detach() for name, value in terms.items()}
