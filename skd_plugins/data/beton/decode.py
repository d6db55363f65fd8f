"""Decodes a box of an image, resizes and flips it: by our compiled code, or by FFCV's library with the same pixels.

FFCV decodes the whole image, resizes a box of it, and flips nothing. `native/crop.c` decodes the box only and resizes
each row as it comes. It is used if it is compiled and gives FFCV's pixels to the last bit. The first use in a process
checks that in a few ms, because the pixels depend on the libjpeg-turbo and OpenCV that the two libraries link to.
"""

import ctypes
import importlib.util
import io
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...common.errors import SkdError
from .native.compile import library_path

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, left, height, width; what is outside the image is black
_DAMAGED = "damaged JPEG data"
_REASONS = {
    1: _DAMAGED, 2: "its size is not the one in the table", 3: "out of memory",
    4: "its size, or the box's, is impossible",
}  # fmt: skip
_local = threading.local()  # each thread's buffer for a decoded image; fresh ones would cost page faults


class Stored(NamedTuple):
    """An image as it is in a `.beton` file."""

    data: Pixels  # the bytes [n]: a JPEG, or pixels
    shape: tuple[int, int]  # height and width
    raw: bool  # `data` are pixels


def crop(image: Stored, box: Box, flip: bool, out: Pixels, *, whole: bool) -> str | None:
    """Decodes an image and resizes a box of it into `out`, see `BetonFile.crop`.

    Args:
        out: ``[H, W, 3]``, contiguous, written.
        whole: look for damage in all of a JPEG, not only in what the box needs.
    """
    library = native()
    if library is None:
        return crop_ffcv(image, box, flip, out)
    return crop_native(library, image, box, flip, out, whole=whole)


def crop_native(library: ctypes.CDLL, image: Stored, box: Box, flip: bool, out: Pixels, *, whole: bool) -> str | None:
    """`crop` by `native/crop.c`."""
    data, (out_height, out_width, _) = image.data, out.shape
    code = library.skd_crop(
        data.ctypes.data, len(data), image.raw, *image.shape, (ctypes.c_int32 * 4)(*box), flip, whole,
        out.ctypes.data, out_height, out_width,
    )  # fmt: skip
    return _REASONS[code] if code else None


def crop_ffcv(image: Stored, box: Box, flip: bool, out: Pixels) -> str | None:
    """`crop` by FFCV's library, which decodes the whole image and so notices damage anywhere."""
    height, width = image.shape
    if image.raw:
        pixels = image.data.reshape(height, width, 3)
    else:
        buffer: Pixels | None = getattr(_local, "buffer", None)
        if buffer is None or len(buffer) < height * width * 3:
            buffer = _local.buffer = np.empty(height * width * 3, dtype=np.uint8)
        pixels = buffer[: height * width * 3].reshape(height, width, 3)
        source = image.data.ctypes.data, len(image.data), *image.shape
        if ffcv().imdecode(*source, pixels.ctypes.data, *image.shape, 0, 0, 1, 1, False, False):
            return _DAMAGED
    top, left, h, w = box
    if top < 0 or left < 0 or top + h > height or left + w > width:
        pixels, top, left = shifted(pixels, box), 0, 0
    target = np.empty_like(out) if flip else out
    ffcv().resize(
        0, pixels.ctypes.data, *pixels.shape[:2], top, top + h, left, left + w, target.ctypes.data, *target.shape[:2]
    )
    if flip:
        out[:] = target[:, ::-1]
    return None


def shifted(image: Pixels, box: Box) -> Pixels:
    """The box's part of an image ``[h, w, 3]``, black outside the image."""
    top, left, height, width = box
    window = np.zeros((height, width, 3), dtype=np.uint8)
    seen = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    window[max(-top, 0) :, max(-left, 0) :][: seen.shape[0], : seen.shape[1]] = seen
    return window


# ------------------------------------------------------------------------------------------------------ the libraries


@cache
def native() -> ctypes.CDLL | None:
    """Our compiled library, None if it is not compiled or does not give FFCV's pixels."""
    try:
        library = ctypes.CDLL(str(library_path()))
    except OSError:  # not compiled, or compiled where another libjpeg is installed
        return None
    library.skd_crop.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    if _agrees(library):
        return library
    warnings.warn(
        f"{library_path().name} does not give the pixels of FFCV's decoder, so FFCV's slower one is used; set up again "
        "so that both are compiled for the same libjpeg-turbo",
        stacklevel=2,
    )
    return None


def _agrees(library: ctypes.CDLL) -> bool:
    """Whether the library's pixels are FFCV's: each way of resizing, on a JPEG with subsampled chroma."""
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (17, 21, 3)).repeat(6, axis=0).repeat(6, axis=1)
    picture = (blocks + draw.integers(-20, 20, blocks.shape)).clip(0, 255).astype(np.uint8)[:99, :122]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=90, subsampling="4:2:0")
    image = Stored(np.frombuffer(file.getvalue(), dtype=np.uint8), (99, 122), raw=False)
    for box in ((20, 31, 61, 72), (37, 5, 20, 30), (9, 50, 20, 64), (9, 50, 64, 64)):  # smaller, larger, both, a half
        ours, theirs = np.zeros((2, 32, 32, 3), dtype=np.uint8)
        if crop_native(library, image, box, True, ours, whole=False):
            return False
        if crop_ffcv(image, box, True, theirs) or (ours != theirs).any():
            return False
    return True


@cache
def ffcv() -> ctypes.CDLL:
    """FFCV's compiled library, without importing its package, which takes seconds and sets torch's thread count."""
    spec = importlib.util.find_spec("ffcv")
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("_libffcv*")]
    if not files:
        raise SkdError("reading .beton files needs FFCV: install skd_plugins[ffcv], or train from an image folder")
    library = ctypes.CDLL(str(files[0]))
    library.imdecode.argtypes = [
        ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p,
        *[ctypes.c_uint32] * 6, ctypes.c_bool, ctypes.c_bool,
    ]  # fmt: skip
    library.resize.argtypes = [ctypes.c_int64] * 11
    library.resize.restype = None
    return library
