"""timm's mixup and cutmix, alike on every segment of a batch."""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

Part = TypeVar("Part")
Result = TypeVar("Result")


def mix_segments(mixup: Mixup, input: Tensor, target: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Mixes anchors and pairs with the same permutation and coefficient (CS-KD, section 3.2).

    timm mixes image i with image ``b - 1 - i`` and draws the coefficient (and cutmix's box) from NumPy's global
    generator, so every segment starts from the same state of that generator.

    Args:
        input: ``[S * B, 3, H, W]``; changed in place, as timm does.
        target: ``[S * B]`` class indices.
        segments: S.

    Returns:
        input, and the target as probabilities ``[S * B, C]``.
    """

    def mix(part: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = part
        even = len(images) // 2 * 2
        soft = [Mixup.__call__(mixup, images[:even], labels[:even])[1]] if even else []  # of a subclass, too
        if even < len(images):  # timm takes even batches only; the last image of an odd one is not mixed
            soft.append(mixup_target(labels[even:], mixup.num_classes, 1.0, mixup.label_smoothing))
        return torch.cat(soft)

    parts = list(zip(input.chunk(segments), target.chunk(segments), strict=True))
    return input, torch.cat(from_same_state(mix, parts))


def collate_segments(
    collate: Callable[[list[Any]], tuple[Tensor, Tensor]], segments: int, batch: list[Any]
) -> tuple[Tensor, Tensor]:
    """Collates ``S * B`` samples, each segment by itself but with the same random numbers, so that all mix alike."""
    size = len(batch) // segments
    parts = from_same_state(collate, [batch[first : first + size] for first in range(0, len(batch), size)])
    return torch.cat([input for input, _ in parts]), torch.cat([target for _, target in parts])


def from_same_state(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Applies `function` to each part, with the global generators in the same state.

    timm's mixup draws from NumPy's, torchvision's from torch's and Python's.
    """
    states = np.random.get_state(), torch.get_rng_state(), random.getstate()
    results = []
    for part in parts:
        np.random.set_state(states[0])
        torch.set_rng_state(states[1])
        random.setstate(states[2])
        results.append(function(part))
    return results
