"""Writes `.beton` files with FFCV's writer: verified, described, and either complete or absent."""

import hashlib
import os
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...common.errors import SkdError
from ...common.files import file_sha256, json_text
from ...common.locks import only_one
from ...common.meter import tracked
from ..sources import Source
from .ffcv_writer import run_writer
from .file import BetonFile


def write_beton(
    source: Source,
    path: Path,
    *,
    max_resolution: int | None = None,
    jpeg_quality: int = 90,
    raw_share: float = 0.0,
    workers: int = 0,
) -> Path:
    """Writes a source as a `.beton` file, verifies it, and describes it in ``PATH.json``.

    ``PATH.crc32`` gets the CRC-32 of each image's bytes (little-endian uint32), since the JPEG decoder misses much
    damage. Which images are stored as pixels depends on their index only.

    Args:
        path: the file to make; it appears under this name only when it is complete and verified.
        max_resolution: images with a longer side (pixels) are scaled down to it.
        jpeg_quality: 1 to 100.
        raw_share: share of the images, in [0, 1], that are stored as pixels instead of JPEG.
        workers: processes; 0 for one a core.
    """
    if not 1 <= jpeg_quality <= 100:
        raise SkdError(f"--jpeg-quality must be from 1 to 100, got {jpeg_quality}")
    if not 0 <= raw_share <= 1:
        raise SkdError(f"--raw-share must be from 0 to 1, got {raw_share:g}")
    if max_resolution is not None and max_resolution < 1:
        raise SkdError(f"--max-resolution must be at least 1, got {max_resolution}")
    if len(source.targets) == 0:
        raise SkdError(f"{source.description} has no images")
    if source.targets.min() < 0 or source.targets.max() >= len(source.classes):
        raise SkdError(
            f"{source.description} has labels from {source.targets.min()} to {source.targets.max()}, but "
            f"{len(source.classes)} classes"
        )
    options: dict[str, Any] = {"max_resolution": max_resolution, "jpeg_quality": jpeg_quality, "raw_share": raw_share}
    with only_one(path):
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        parts = {end: Path(part + end) for end in (".crc32", ".json", "")}
        try:
            run_writer(source, parts[""], **options, workers=workers)
            _describe(source, parts, options)
            # mkstemp's file is readable for its owner only, whatever the umask.
            parts[""].chmod(parts[".json"].stat().st_mode)
            for file in parts.values():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            # The data come last: a new data file beside an old description would be an error for its readers.
            path.unlink(missing_ok=True)
            for end, file in parts.items():
                file.replace(path.with_name(path.name + end))
        finally:
            for file in parts.values():
                file.unlink(missing_ok=True)
    return path


def _describe(source: Source, parts: dict[str, Path], options: dict[str, Any]) -> None:
    """Checks the count and every label of what was written, then writes the files that go beside it."""
    written = BetonFile(parts[""])
    if not np.array_equal(written.targets, source.targets):
        raise SkdError(
            f"the {len(written)} samples that FFCV wrote are not the source's {len(source.targets)}; try again"
        )
    indices = tracked(range(len(written)), "checksums of the images")
    checks = np.array([zlib.crc32(written.stored(index).data) for index in indices], dtype="<u4").tobytes()
    info = {
        "classes": source.classes,
        "source": source.description,
        "num_samples": len(source.targets),
        "options": options,
        "tables_sha256": written.tables_sha256,
        "crc32_sha256": hashlib.sha256(checks).hexdigest(),
        "sha256": file_sha256(parts[""]),
        "skd_plugins": version("skd_plugins"),
    }
    parts[".crc32"].write_bytes(checks)
    parts[".json"].write_text(json_text(info))


def write_folder(source: Source, path: Path) -> Path:
    """Writes a source as PNG files, one folder a class, for training without FFCV."""
    for index, target in enumerate(tracked(source.targets, "writing")):
        folder = path / source.classes[target]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.load(index)).save(folder / f"{index:06d}.png")
    return path
