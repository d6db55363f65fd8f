"""The terms that losses are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(target_logits: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(target_logits / T) || softmax(logits / T))`` in float32, averaged over the batch.

    Args:
        target_logits: ``[B, C]``, the first argument of the divergence.
        logits: ``[B, C]``, the second.
        temperature: T; the result is *not* multiplied by ``T ** 2``.
    """
    return F.kl_div(
        F.log_softmax(full_precision(logits) / temperature, dim=-1),
        F.log_softmax(full_precision(target_logits) / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def full_precision(tensor: Tensor) -> Tensor:
    """At least float32, for softmax and what follows."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def dropped(tensor: Tensor, drop_rate: float, samples: int) -> list[Tensor]:
    """Independent dropout samples of a tensor, kept entries divided by ``1 - drop_rate``."""
    return [F.dropout(tensor, drop_rate, training=True) for _ in range(samples)]
