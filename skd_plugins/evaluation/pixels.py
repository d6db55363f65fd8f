"""Conversions between normalised input and pixels in [0, 1], and random numbers that belong to an image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """The loader's normalisation, which every perturbation needs: ``mean=loader.mean, std=loader.std``."""

    mean: Sequence[float]
    std: Sequence[float]

    def to_pixels(self, input: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` as pixels, clamped to [0, 1] against rounding."""
        return (input * self.scale(input) + _channels(self.mean, input)).clamp(0, 1)

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """The inverse of `to_pixels`."""
        return (pixels - _channels(self.mean, pixels)) / self.scale(pixels)

    def scale(self, like: Tensor) -> Tensor:
        """The size of a normalised unit in pixel units: the standard deviations as ``[C, 1, 1]``."""
        return _channels(self.std, like)


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1)


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels ``[B, C, H, W]`` in [0, 1] as ``[B, H, W, C]`` in 0 to 255."""
    return np.ascontiguousarray((pixels.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy())


def generator_of(image: NDArray[np.uint8], seed: int, what: str) -> np.random.Generator:
    """A random generator seeded by an image's pixels ``[H, W, C]``, the evaluation's seed and what it is used for.

    So the numbers do not depend on the image's batch, its position or the process.
    """
    digest = hashlib.blake2b(f"{what} {seed} {image.shape}".encode() + image.tobytes(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
