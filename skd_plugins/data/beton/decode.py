"""Decodes a box of an image, resizes and flips it: `native/crop.c`, with FFCV's pixels to the last bit.

FFCV decodes the whole image, resizes a box of it, and flips nothing. Ours decodes the box only and resizes each row as
it comes. The tests compare the two.
"""

import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...common.errors import SkdError
from .native.compile import library_path

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, left, height, width; what is outside the image is black
_REASONS = {
    1: "damaged JPEG data", 2: "its size is not the one in the table", 3: "out of memory",
    4: "its size, or the box's, is impossible",
}  # fmt: skip


def crop(
    data: Pixels, shape: tuple[int, int], raw: bool, box: Box, flip: bool, out: Pixels, *, whole: bool
) -> str | None:
    """Decodes an image and resizes a box of it into `out`, see `BetonFile.crop`.

    Args:
        data: the stored bytes ``[n]``: a JPEG, or pixels if `raw`.
        shape: height and width of the image.
        out: ``[H, W, 3]``, contiguous, written.
        whole: look for damage in all of a JPEG, not only in what the box needs.
    """
    place, size = (ctypes.c_int32 * 4)(*box), out.shape[:2]
    code = library().skd_crop(data.ctypes.data, len(data), raw, *shape, place, flip, whole, out.ctypes.data, *size)
    return _REASONS[code] if code else None


@cache
def library() -> ctypes.CDLL:
    """The compiled decoder."""
    try:
        found = ctypes.CDLL(str(library_path()))
    except OSError as error:  # not compiled, or compiled where another libjpeg is installed
        raise SkdError(
            f"reading .beton files needs a compiled decoder ({error}): install a C compiler and libjpeg-dev "
            "(libjpeg-turbo 2.1 or later), then run python -m skd_plugins.data.beton.native.compile; or train from an "
            "image folder"
        ) from None
    found.skd_crop.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    return found
