"""DML: two networks learn together."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .ddgsd import mutual_distillation
from .losses import full_precision
from .method import Method, at_least, register_method


@register_method("dml")
class DML(Method):
    """DML (Zhang et al. 2018): deep mutual learning with a peer network of the same architecture.

    ``loss = (CE(p_1, y) + CE(p_2, y)) / 2 + weight * T^2 * [KL(p_2 || p_1) + KL(p_1 || p_2)]``, the first argument of
    each divergence detached. The peer is there in training only: what is evaluated, averaged and exported is the first
    network. The peer starts as the first network with the entries of each of its parameters shuffled, which is another
    draw of the initialisation (and of one that was trained, only its statistics are left).

    Source: Zhang et al. 2018; the values and the mean of both cross-entropies from the authors' code of
        SD-Dropout (yechanp/self_kd, models/methods.py: DML), T = 3.
    Deviation: none from that code, where both networks are one optimizer's too; the paper steps them in turn. Beside it
        (float64, ResNet-18, 16 images of 64 px, 5 draws) the loss differs by at most 3.3e-16, the gradients of both
        networks by 6.0e-15; with sd_dropout (DML_Dropout_V1) likewise.

    Args:
        model: see `Method`.
        criterion: see `Method`.
        weight: of the divergences.
        temperature: T.
    """

    passes = (2, 0)

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        weight: float = 1.0,
        temperature: float = 3.0,
    ) -> None:
        super().__init__(model, criterion)
        self.weight = at_least(weight, 0, "dml: weight")
        self.temperature = at_least(temperature, 0, "dml: temperature", strict=True)
        self.peer = shuffled_copy(model)

    def forward(
        self, input: Tensor, target: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.forward`. Adds ``ce`` (the mean of both networks') and ``kd``."""
        out, logits = self.anchor_forward(input, expand)
        peer_logits = full_precision(self.peer(input))
        ce = (self.criterion(logits, target) + self.criterion(peer_logits, target)) / 2
        kd = mutual_distillation(logits, peer_logits, self.temperature)
        return out | {"loss": ce + self.weight * kd, "ce": ce.detach(), "kd": kd.detach()}


@torch.no_grad()
def shuffled_copy(model: nn.Module) -> nn.Module:
    """A copy in which the entries of every parameter are shuffled, by torch's global generator."""
    peer = copy.deepcopy(model)
    for parameter in peer.parameters():
        if parameter.is_meta:  # a plan: nothing is computed
            continue
        order = torch.randperm(parameter.numel())
        parameter.copy_(parameter.flatten()[order.to(parameter.device)].view(parameter.shape))
    return peer
