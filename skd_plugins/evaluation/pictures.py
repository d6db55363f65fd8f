"""Images as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import SkdError

_LONGEST = 224  # pixels in the page; twice what a grid cell shows, for dense screens


def data_uri(image: NDArray[Any], *, index: int) -> str:
    """A ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]`` uint8 image, large ones scaled down, as a ``data:`` address."""
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise SkdError(f"image {index} should be uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
    picture = Image.fromarray(pixels)
    small = max(picture.size) <= 64
    picture.thumbnail((_LONGEST, _LONGEST))
    buffer = io.BytesIO()
    if small:  # a few pixels that JPEG would blur
        picture.save(buffer, "png", optimize=True)
    else:
        picture.save(buffer, "jpeg", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
