"""timm's and torchvision's random changes of a cropped image, with random numbers keyed like those of the crop.

Their code draws from the global generators of Python, NumPy and torch, which threads would share. So it runs in the
main thread of a process, where each image seeds the generators for itself.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode, TrivialAugmentWide

from ..common.rng import keys
from .augment import TRIVIAL, Augmentation
from .order import Batch, Indices, rows_of

_CHANGES, _ERASING = 1, 2  # what a key is for; those of crops and flips have no such part
Change = Callable[[Image.Image], Image.Image]


def posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's posterize, which may ask for 0 bits or fewer: Pillow 13 refuses that, before it gave black."""
    return posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


# For timm's own loaders too: RandAugment at magnitude 9 with mstd0.5 would end a training within its first batches.
NAME_TO_OP.update({name: posterized for name in NAME_TO_OP if name.startswith("Posterize")})


def seed_generators(key: int, *others: torch.Generator) -> None:
    """Seeds the global generators, and `others`."""
    random.seed(key)
    np.random.seed([key & (2**32 - 1), key >> 32])
    for generator in (torch.default_generator, *others):
        generator.manual_seed(key & (2**63 - 1))


@contextmanager
def kept_generators(*others: torch.Generator) -> Iterator[None]:
    """Puts the states of the global generators, and of `others`, back at the end."""
    generators = (torch.default_generator, *others)
    states = random.getstate(), np.random.get_state(), [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for generator, state in zip(generators, states[2], strict=True):
            generator.set_state(state)


@cache
def changes_of(spec: Augmentation, size: int) -> Change | None:
    """What timm's training transform does between the flips and the tensor, for images of that side; None if nothing.

    Unlike timm, ``auto_augment`` does not switch ``color_jitter`` off.
    """
    if not spec.changes_pixels:
        return None
    trivial = spec.auto_augment == TRIVIAL
    policy: Any = None if trivial else spec.auto_augment
    jitter: Any = spec.color_jitter or None  # timm's type hints leave None out
    changes: Change
    _, changes, _ = transforms_imagenet_train(
        size, color_jitter=jitter, force_color_jitter=True, grayscale_prob=spec.grayscale,
        auto_augment=policy, interpolation=spec.interpolation, mean=spec.mean, separate=True,
    )  # fmt: skip
    if not trivial:
        return changes
    filter = "bilinear" if spec.interpolation == "random" else spec.interpolation
    both: Change = Compose([TrivialAugmentWide(interpolation=InterpolationMode(filter)), changes])
    return both


def change(
    pixels: NDArray[np.uint8], rows: Sequence[int], spec: Augmentation, seed: int, epoch: int,
    positions: Indices, segments: Indices,
) -> None:  # fmt: skip
    """Puts `changes_of` some rows of a batch of cropped images ``[n, H, W, 3]`` in their place."""
    changes = changes_of(spec, spec.size(epoch))
    if changes is None:
        return
    numbers = keys(seed, epoch, positions, segments, _CHANGES).tolist()
    in_worker = torch.utils.data.get_worker_info() is not None  # whose generators nobody else uses
    with nullcontext() if in_worker else kept_generators():
        for row in rows:
            seed_generators(numbers[row])
            pixels[row] = np.asarray(changes(Image.fromarray(pixels[row])))


class Erasing:
    """timm's random erasing of a batch on its device. What is erased does not depend on the number of processes.

    Args:
        clean: for each segment whether it is left alone.
    """

    def __init__(self, spec: Augmentation, *, seed: int, clean: Sequence[bool], device: torch.device) -> None:
        self.seed, self.clean = seed, np.array(clean)
        self._erase = RandomErasing(
            spec.random_erasing, mode=spec.erasing_mode, max_count=spec.erasing_count, device=device
        )

    def __call__(self, input: Tensor, epoch: int, batch: Batch) -> None:
        """Erases in place; the input ``[S * B, 3, H, W]`` is normalised."""
        positions, segments = rows_of(batch)
        numbers = keys(self.seed, epoch, positions, segments, _ERASING).tolist()
        device = input.device
        others = [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
        with kept_generators(*others):
            for row in np.flatnonzero(~self.clean[segments]).tolist():
                seed_generators(numbers[row], *others)
                self._erase(input[row])
