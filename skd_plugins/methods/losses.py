"""The terms that losses are made of."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(target_logits: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(target_logits / T) || softmax(logits / T))`` of logits ``[B, C]``, averaged over the batch.

    It is computed in float32. ``T^2`` keeps the size of the gradients the same at every temperature (Hinton et al.
    2015, section 2).
    """
    return sum_of_divergences([(target_logits, logits)], temperature)


def sum_of_divergences(pairs: Sequence[tuple[Tensor, Tensor]], temperature: float) -> Tensor:
    """The sum of `kl_divergence` over pairs of ``(target_logits, logits)``."""

    def log_p(logits: Tensor) -> Tensor:
        return F.log_softmax(full_precision(logits) / temperature, dim=-1)

    terms = [F.kl_div(log_p(z), log_p(target), reduction="batchmean", log_target=True) for target, z in pairs]
    return torch.stack(terms).sum() * temperature**2


def self_distillation(u: Tensor, v: Tensor, temperature: float, direction: str = "both") -> Tensor:
    """``T^2 * [KL(p_u || p_v) + KL(p_v || p_u)]`` of logits ``[B, C]``, Eq. 3 and 6-7 of SD-Dropout.

    `direction` ``forward`` detaches the first argument of each divergence, ``reverse`` the second, ``both`` none.
    """
    fixed_u, fixed_v = u.detach(), v.detach()
    pairs = {"both": [(u, v), (v, u)], "forward": [(fixed_u, v), (fixed_v, u)], "reverse": [(u, fixed_v), (v, fixed_u)]}
    return sum_of_divergences(pairs[direction], temperature)


def full_precision(tensor: Tensor) -> Tensor:
    """At least float32, for softmax and what follows."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def dropped(tensor: Tensor, drop_rate: float, samples: int) -> list[Tensor]:
    """Independent dropout samples of a tensor, kept entries divided by ``1 - drop_rate``."""
    return [F.dropout(tensor, drop_rate, training=True) for _ in range(samples)]
