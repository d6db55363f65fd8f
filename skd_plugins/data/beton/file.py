"""FFCV's `.beton` files: tables checked before use, images decoded with FFCV's pixels.

Why not `ffcv.Loader`: an exception in its worker leaves the consumer waiting for ever, it does not notice a corrupt
JPEG, its augmentation can't be seeded, an epoch left early leaks a thread, it sets torch's thread count, and it
compiles for 5-8 s in every process.
"""

import ctypes
import hashlib
import importlib.util
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from ...common.errors import SkdError
from .native.compile import library_path

# Format version 2, ffcv/types.py and ffcv/fields/{rgb_image,basics}.py of FFCV 1.0.2.
_VERSION = 2
_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page_size", "<u4"), ("samples", "<u8"), ("table", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
_ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data", "<u8")])
_FIELD_TYPES = {0: np.dtype("<f8"), 1: np.dtype("<i8"), 2: _IMAGE}
_RAW = 1  # the mode of an image stored as pixels; 0 is a JPEG
_MOST_CLASSES = 1 << 24
REASONS = {  # of the decoder, native/crop.c
    1: "damaged JPEG data", 2: "its size is not the one in the table", 3: "out of memory",
    4: "its size, or the box's, is impossible",
}  # fmt: skip


class BetonFile:
    """A `.beton` file with an image and a label field, as FFCV's writer makes it.

    ``PATH.json`` beside the file (see `write`) is read and checked if it is there, with ``PATH.crc32``.

    `targets`, `heights` and `widths` are ``[N]``; `classes` is None without the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise SkdError(f"{self.path} does not exist; make it with: skd write SOURCE --out {self.path.parent}")
        self._data = np.memmap(self.path, dtype=np.uint8, mode="r") if self.path.stat().st_size else np.zeros(0, "u1")
        header = self._table(_HEADER, 1, 0, "header")[0]
        if header["version"] != _VERSION:
            raise SkdError(
                f"{self.path} is not an FFCV file of format {_VERSION} (its version field is {header['version']})"
            )
        samples = int(header["samples"])
        fields = self._table(_FIELD, int(header["fields"]), _HEADER.itemsize, "field table")
        kinds = fields["type"].tolist()
        if kinds.count(2) != 1 or kinds.count(1) != 1 or not set(kinds) <= _FIELD_TYPES.keys():
            raise SkdError(
                f"{self.path} should have one image (FFCV's type 2), one integer (1, the label) and else floats (0), "
                f"but has fields of types {kinds}"
            )
        row = np.dtype([("", _FIELD_TYPES[kind]) for kind in kinds], align=True)
        offset = _HEADER.itemsize + fields.nbytes
        metadata = self._table(row, samples, offset, "sample table")
        images = metadata[f"f{kinds.index(2)}"]
        table = int(header["table"])
        allocations = self._table(_ALLOCATION, max(len(self._data) - table, 0) // _ALLOCATION.itemsize, table, "index")
        self.targets = np.array(metadata[f"f{kinds.index(1)}"], dtype=np.int64)
        self.heights = images["height"].astype(np.int64)
        self.widths = images["width"].astype(np.int64)
        self._modes = images["mode"].copy()
        self._pointers, self._sizes = self._places(images["data"], allocations)
        self._check()
        self.tables_sha256 = hashlib.sha256(
            b"".join(part.tobytes() for part in (header, fields, metadata, allocations))
        ).hexdigest()
        self._crc32: NDArray[np.uint32] | None = None
        self.info = self._read_info()
        self.classes: list[str] | None = self.info.get("classes")

    def __len__(self) -> int:
        return len(self.targets)

    def __reduce__(self) -> tuple[type["BetonFile"], tuple[Path]]:
        """Sends a worker process the path, not the file's content."""
        return BetonFile, (self.path,)

    def fingerprint(self) -> str:
        """A digest of the labels and the images' CRC-32s; without these, of the tables, the size and some images.

        Two writes of the same images have the same CRC-32s, but may place the images differently.
        """
        digest = hashlib.sha256(self.targets.tobytes())
        if self._crc32 is not None:
            digest.update(self._crc32.tobytes())
        else:
            digest.update(f"{self.tables_sha256} {len(self._data)}".encode())
            for index in range(0, len(self), -(-len(self) // 64)):
                digest.update(self.stored(index).data)
        return digest.hexdigest()

    def name_of(self, index: int) -> str:
        """What messages call a sample."""
        return f"image {index} of {self.path}"

    def stored(self, index: int) -> NDArray[np.uint8]:
        """A sample's bytes as they are in the file: a JPEG, or pixels."""
        begin = int(self._pointers[index])
        return self._data[begin : begin + int(self._sizes[index])]

    def crop(self, index: int, box: NDArray[np.int64], flip: bool, out: NDArray[np.uint8]) -> str | None:
        """Decodes a sample and resizes a box of it into `out` (area filter, as FFCV).

        Args:
            box: (top, left, height, width); black outside the image.
            flip: mirror the result horizontally.
            out: ``[H, W, 3]``, written.

        Returns:
            None, or why the image can't be decoded (`out` is then undefined).
        """
        data = self.stored(index)
        # The decoder notices 96 % of JPEGs with 2,000 zeroed bytes, but only half of those with one flipped byte. The
        # check takes 3 to 4 % of the decoding time (500 x 375 pixels, cropped to 224).
        if self._crc32 is not None and zlib.crc32(data.data) != self._crc32[index]:
            return "its bytes are not those that were written (CRC-32 differs)"
        stored = data.ctypes.data, len(data), self._modes[index] == _RAW, self.heights[index], self.widths[index]
        # Without a checksum, damage is looked for in all of a JPEG, not only in what the box needs.
        place = (ctypes.c_int32 * 4)(*box.tolist()), flip, self._crc32 is None
        code = library().skd_crop(*map(int, stored), *place, out.ctypes.data, *out.shape[:2])
        return REASONS[code] if code else None

    def _damaged(self, how: str) -> SkdError:
        return SkdError(f"{self.path} is truncated or damaged: {how}; write it again with skd write")

    def _table(self, dtype: np.dtype[Any], count: int, offset: int, what: str) -> NDArray[Any]:
        end = offset + dtype.itemsize * count
        if end > len(self._data):
            raise self._damaged(f"its {what} should end at byte {end}, the file has {len(self._data)}")
        return np.frombuffer(self._data[offset:end].tobytes(), dtype=dtype)

    def _places(
        self, pointers: NDArray[np.uint64], allocations: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each image is, and its size, which only the index at the file's end has."""
        allocations = allocations[np.argsort(allocations["pointer"])]
        if len(allocations) > len(pointers):  # FFCV allocates space for images only
            raise self._damaged(f"it has {len(pointers)} samples, but {len(allocations)} images")
        place = np.searchsorted(allocations["pointer"], pointers)
        found = place < len(allocations)
        entries = allocations[place[found]]
        found[found] = (entries["pointer"] == pointers[found]) & (entries["sample"] == np.flatnonzero(found))
        if not found.all():
            raise self._damaged(f"{len(found) - int(found.sum())} of its {len(found)} images are not in its index")
        # A value too large for int64 becomes negative, which `_check` refuses.
        return pointers.astype(np.int64), allocations["size"][place].astype(np.int64)

    def _check(self) -> None:
        if not len(self):
            raise SkdError(f"{self.path} has no samples")
        raw = self._modes == _RAW
        bad = (
            (self._pointers < 0)
            | (self._sizes < 1)
            | (self._pointers > len(self._data) - self._sizes)  # not as a sum, which could overflow
            | (self.heights < 1)
            | (self.widths < 1)
            | (self._modes > _RAW)
            | (raw & (self._sizes != self.heights * self.widths * 3))
            | (self.targets < 0)
            | (self.targets >= _MOST_CLASSES)
        )
        if bad.any():
            index = int(bad.argmax())
            raise self._damaged(f"the table entry of image {index}, with label {self.targets[index]}, is impossible")

    def _read_info(self) -> dict[str, Any]:
        path = self.path.with_name(self.path.name + ".json")
        if not path.exists():
            return {}
        try:
            info: dict[str, Any] = from_json(path.read_bytes())
            expected, classes, sums = info["tables_sha256"], len(info["classes"]), info["crc32_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise SkdError(f"{path} is damaged ({error}); write the data again, or delete it") from None
        if expected != self.tables_sha256:
            raise SkdError(f"{self.path} is not the file that {path.name} describes (its tables differ)")
        if self.targets.max() >= classes:
            raise SkdError(f"{self.path} has the label {self.targets.max()}, but {path.name} names {classes} classes")
        checks = self.path.with_name(self.path.name + ".crc32")
        data = checks.read_bytes() if checks.is_file() else b""
        if hashlib.sha256(data).hexdigest() != sums:
            raise SkdError(
                f"{checks} is {'damaged (its SHA-256 differs)' if data else 'missing'}; write the data again, or "
                f"delete {path.name} to read it without checks"
            )
        self._crc32 = np.frombuffer(data, dtype="<u4")
        return info


def beton_available() -> bool:
    """Whether files can be written, by FFCV, and read, by our decoder."""
    return importlib.util.find_spec("ffcv") is not None and library_path().exists()


@cache
def library() -> ctypes.CDLL:
    """The compiled decoder, `native/crop.c`: FFCV's pixels to the last bit, as the tests compare."""
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
