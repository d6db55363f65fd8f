"""timm's mixup and cutmix, on every segment of a batch alike."""

from __future__ import annotations

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor


def mix_segments(mixup: Mixup, input: Tensor, target: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Mixes anchors and pairs with the same permutation and coefficient (CS-KD, section 3.2).

    timm mixes image i with image ``b - 1 - i`` and draws the coefficient (and cutmix's box) from NumPy's global
    generator, so starting each segment from the same state of it does that.

    Args:
        mixup: timm's.
        input: ``[S * B, 3, H, W]``; changed in place, as timm does.
        target: ``[S * B]`` class indices.
        segments: S.

    Returns:
        input and the target as probabilities ``[S * B, C]``.
    """
    state = np.random.get_state()
    mixed = []
    for images, labels in zip(input.chunk(segments), target.chunk(segments), strict=True):
        np.random.set_state(state)
        even = len(images) // 2 * 2
        # timm refuses odd batches; only the last image of an epoch can be left over, and it stays as it is.
        last = (
            mixup_target(labels[even:], mixup.num_classes, 1.0, mixup.label_smoothing) if even < len(images) else None
        )
        soft = mixup(images[:even], labels[:even])[1] if even else None
        mixed.append(torch.cat([part for part in (soft, last) if part is not None]))
    return input, torch.cat(mixed)
