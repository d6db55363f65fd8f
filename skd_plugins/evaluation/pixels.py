"""Between what a network is given (normalised) and what an image is (values in [0, 1]); random numbers of an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import SkdError


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """What every perturbation has to know of the loader: ``mean=loader.mean, std=loader.std``.

    Attributes:
        mean: channel means in [0, 1] pixel units.
        std: channel standard deviations, above 0.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise SkdError(f"mean {list(self.mean)} and std {list(self.std)} need one value a channel, std above 0")

    def to_pixels(self, input: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` in [0, 1]; what rounding put outside is put back."""
        return (input * self.scale(input) + self._channels(self.mean, input)).clamp(0, 1)

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """The inverse of `to_pixels`."""
        return (pixels - self._channels(self.mean, pixels)) / self.scale(pixels)

    def scale(self, like: Tensor) -> Tensor:
        """How much one normalised unit is in pixel units: the standard deviations as ``[C, 1, 1]``."""
        return self._channels(self.std, like)

    @staticmethod
    def _channels(values: Sequence[float], like: Tensor) -> Tensor:
        if like.ndim != 4 or like.shape[1] != len(values):
            raise SkdError(f"images are {list(like.shape)}, but mean and std have {len(values)} channels: [B, C, H, W]")
        return torch.tensor(list(values), dtype=like.dtype, device=like.device).view(-1, 1, 1)


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Images ``[B, C, H, W]`` in [0, 1] as ``[B, H, W, C]`` of 0 to 255."""
    levels: NDArray[np.uint8] = (pixels.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(levels)


def generator_of(image: NDArray[np.uint8], seed: int, what: str) -> np.random.Generator:
    """A random generator for one image, made of its pixels.

    So the numbers do not depend on the batch, the order or the process that the image comes in.

    Args:
        image: ``[H, W, C]``.
        seed: of the whole evaluation.
        what: what the numbers are for; other uses get other numbers.
    """
    digest = hashlib.blake2b(f"{what} {seed} {image.shape}".encode() + image.tobytes(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
