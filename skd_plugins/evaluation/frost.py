"""Photographs of frost, which the corruption of that name lays over images."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..common.errors import SkdError

# The benchmark's list has six, but its draw never gives the last.
_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


@cache
def photographs() -> tuple[NDArray[np.float64], ...]:
    """The benchmark's photographs, ``[H, W, 3]`` in [0, 1], from the package imagecorruptions, which is not imported.

    Raises:
        SkdError: the package is not installed, or has other files.
    """
    spec = importlib.util.find_spec("imagecorruptions")
    folder = Path(spec.origin).parent / "frost" if spec and spec.origin else None
    missing = [name for name in _FILES if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        raise SkdError(
            f"frost needs the benchmark's photographs of frost ({missing[0]} was not found), which come with the "
            "package imagecorruptions: pip install 'skd_plugins[corruptions]'; CIFAR-100 with frost is in "
            "skd data cifar100c"
        )
    return tuple(np.asarray(Image.open(folder / name).convert("RGB")) / 255 for name in _FILES)


def window(height: int, width: int, small: bool, draw: np.random.Generator) -> NDArray[np.float64]:
    """A random piece of a random photograph.

    Args:
        height: of the piece, pixels.
        width: of the piece, pixels.
        small: every fifth pixel of the photograph, as CIFAR-C takes it.
        draw: random numbers.

    Returns:
        ``[height, width, 3]`` in [0, 1].
    """
    photograph = photographs()[int(draw.integers(len(_FILES)))]
    if small:
        photograph = photograph[2::5, 2::5]  # what bilinear interpolation at a scale of 0.2 gives
    repeat = max(-(-height // photograph.shape[0]), -(-width // photograph.shape[1]))
    if repeat > 1:  # an image larger than the photograph, which the benchmark does not have
        photograph = photograph.repeat(repeat, axis=0).repeat(repeat, axis=1)
    top, left = (int(draw.integers(have - need + 1)) for have, need in zip(photograph.shape, (height, width)))  # noqa: B905
    return photograph[top : top + height, left : left + width]
