"""SD-Dropout: a network teaches itself through two dropout samples of its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SkdError
from ._base import Method, at_least, create_base, kl_divergence, register_method


@register_method("sd_dropout")
class SDDropout(Method):
    """SD-Dropout (Lee et al. 2022, Eq. 3-5), added to any base method.

    ``loss = base loss + weight * T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]`` with ``p_u``, ``p_v`` the softmax at
    temperature T of the classifier applied to two dropout samples of the pooled features. The base's cross-entropy is
    on the logits without dropout. Dropout is inverted (kept features are divided by ``1 - drop_rate``) and samples the
    anchors only. The classifier is applied to the features and both samples in one call, so a step costs what the
    base's step costs.

    Source: Eq. 3-4 (alone), Eq. 5 (on another method), Eq. 6-7 (one direction); the authors' code (yechanp/self_kd,
        branch SD_Dropout, models/) for T = 3, p = 0.5, ``batchmean`` and inverted scaling, which the paper leaves
        unsaid. The paper's beta is the probability to drop.
    Deviation: none in the loss. Algorithm 1 shows no temperature; Eq. 4 and the code have it, and we follow these.
        The authors' ImageNet script has weight 1.0, the paper says 0.1; the ImageNet recipes follow the paper.

    Args:
        model: see `Method`.
        criterion: see `Method`.
        base: name of the method it is added to.
        base_args: arguments of that method.
        weight: lambda of Eq. 4. The authors use 1.0 alone and 0.1 on another method.
        temperature: T.
        drop_rate: probability to drop a feature, in (0, 1).
        direction: ``both`` (Eq. 3), ``forward`` (Eq. 6: the divergence's first argument is detached) or ``reverse``
            (Eq. 7: the second is).
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        base: str = "ce",
        base_args: dict[str, Any] | None = None,
        weight: float = 1.0,
        temperature: float = 3.0,
        drop_rate: float = 0.5,
        direction: Literal["both", "forward", "reverse"] = "both",
    ) -> None:
        super().__init__(model, criterion)
        if base == self.name:
            raise SkdError("sd_dropout can't be added to itself; base= names another method")
        self.base = create_base(self.name, base, model, criterion, base_args)
        self.segments, self.couples = self.base.segments, self.base.couples
        self.passes, self.refuses = self.base.passes, self.base.refuses
        self.weight = at_least(weight, 0, "sd_dropout: weight")
        self.temperature = at_least(temperature, 0, "sd_dropout: temperature", strict=True)
        if not 0 < drop_rate < 1:
            raise SkdError(f"sd_dropout: drop_rate must be between 0 and 1, got {drop_rate:g}")
        self.drop_rate = drop_rate
        self.direction = direction

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.forward`. Adds ``sdd`` to the base's terms."""
        if expand is not None:
            raise SkdError("sd_dropout is an add-on; it can't be the base of another one")
        out: dict[str, Tensor] = self.base(input, target, expand=self._with_two_samples)
        u, v = out.pop("extra").chunk(2)
        sdd = self_distillation(u, v, self.temperature, self.direction)
        return out | {"loss": out["loss"] + self.weight * sdd, "sdd": sdd.detach()}

    def _with_two_samples(self, features: Tensor) -> Tensor:
        u, v = (F.dropout(features, self.drop_rate, training=True) for _ in range(2))
        return torch.cat([features, u, v])


def self_distillation(u: Tensor, v: Tensor, temperature: float, direction: str = "both") -> Tensor:
    """``T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]``, Eq. 3 and 6-7 of SD-Dropout.

    Args:
        u: logits ``[B, C]`` of the first dropout sample.
        v: logits ``[B, C]`` of the second.
        temperature: T.
        direction: see `SDDropout`.
    """
    if direction == "both":
        total = kl_divergence(u, v, temperature) + kl_divergence(v, u, temperature)
    elif direction == "forward":
        total = kl_divergence(u.detach(), v, temperature) + kl_divergence(v.detach(), u, temperature)
    else:
        total = kl_divergence(u, v.detach(), temperature) + kl_divergence(v, u.detach(), temperature)
    return total * temperature**2
