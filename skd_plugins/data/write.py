"""Writing `.beton` files with FFCV's writer: verified, described, and never half there."""

from __future__ import annotations

import _thread
import hashlib
import json
import multiprocessing
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import SkdError
from .beton import BetonFile
from .sources import Image, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE = 1 << 23


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

    Args:
        source: the images.
        path: the file to make; it appears under this name only when it is complete and verified.
        max_resolution: images with a longer side (pixels) are scaled down to it.
        jpeg_quality: 1 to 100.
        raw_share: share of the images, in [0, 1], that are stored as pixels instead of JPEG.
        workers: processes; 0 for one a core.

    Returns:
        `path`.

    Raises:
        SkdError: an image can't be read (it is named), a worker died, or the result is not what was to be written.
    """
    if not 1 <= jpeg_quality <= 100:
        raise SkdError(f"--jpeg-quality must be from 1 to 100, got {jpeg_quality}")
    if not 0 <= raw_share <= 1:
        raise SkdError(f"--raw-share must be from 0 to 1, got {raw_share:g}")
    if max_resolution is not None and max_resolution < 1:
        raise SkdError(f"--max-resolution must be at least 1, got {max_resolution}")
    if len(source.targets) == 0:
        raise SkdError(f"{source.description} has no images")
    options = {"max_resolution": max_resolution, "jpeg_quality": jpeg_quality, "raw_share": raw_share}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        _run_writer(source, part, workers=workers, **options)
        checksum = _verify(source, part)
        info = {
            "classes": source.classes,
            "source": source.description,
            "num_samples": len(source.targets),
            "options": options,
            "tables_sha256": BetonFile(part).tables_sha256,
            "sha256": checksum,
            "skd_plugins": __version__,
        }
        # The description goes first: without it a new data file beside an old description would be refused.
        description = path.with_name(path.name + ".json")
        part_info = part.with_suffix(".json")
        part_info.write_text(json.dumps(info, indent=1) + "\n")
        os.chmod(part, 0o644)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        path.unlink(missing_ok=True)
        os.replace(part_info, description)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


class _Reported:
    """What the writer's processes index. An unreadable image is noted instead of raised.

    FFCV's writer waits for ever when a worker dies of an exception, so none may leave `__getitem__`; after the first
    error the rest is skipped with a placeholder and the file thrown away.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.failed = multiprocessing.Array("c", 4096)

    def __len__(self) -> int:
        return len(self.source.targets)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        if not self.failed.value:
            try:
                image = self.source.load(int(index))
                if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or max(image.shape) > 65535:
                    raise ValueError(f"not an RGB image of at most 65535 pixels a side: {image.dtype} {image.shape}")
                return np.ascontiguousarray(image), int(self.source.targets[index])
            except Exception as error:  # anything a decoder may raise; it is re-raised by the main process
                message = f"{self.source.name_of(int(index))} (index {index}) can't be read: {error}"
                with self.failed.get_lock():
                    self.failed.value = self.failed.value or message.encode()[:4095]
        return np.zeros((1, 1, 3), dtype=np.uint8), 0


def _run_writer(
    source: Source, part: Path, *, workers: int, max_resolution: int | None, jpeg_quality: int, raw_share: float
) -> None:
    writer, fields = _ffcv()
    mode = {0.0: "jpg", 1.0: "raw"}.get(raw_share, "proportion")
    images = fields.RGBImageField(
        write_mode=mode, max_resolution=max_resolution, jpeg_quality=jpeg_quality, compress_probability=1 - raw_share
    )
    reported = _Reported(source)
    workers = min(workers or os.cpu_count() or 1, len(source.targets))
    largest = _largest_image(source, max_resolution) if raw_share else 0
    page = max(_PAGE, 1 << int(np.ceil(np.log2(largest + 1))))  # FFCV fails on an image that is larger than a page
    with _dead_workers_raise():
        writer.DatasetWriter(
            str(part), {"image": images, "label": fields.IntField()}, page_size=page, num_workers=workers
        ).from_indexed_dataset(reported, chunksize=max(1, min(100, len(reported) // (4 * workers))))
    if reported.failed.value:
        raise SkdError(reported.failed.value.decode(errors="replace"))


def _ffcv() -> tuple[Any, Any]:
    import torch

    threads = torch.get_num_threads()
    try:
        from ffcv import fields, writer
    except ImportError as error:
        raise SkdError(f"writing .beton files needs FFCV ({error}): install skd_plugins[ffcv]") from None
    torch.set_num_threads(threads)  # importing FFCV sets it to 1
    return writer, fields


def _largest_image(source: Source, max_resolution: int | None) -> int:
    """Bytes of the largest image as pixels."""
    if max_resolution is not None:
        return 3 * max_resolution**2
    return max(source.load(index).nbytes for index in range(len(source.targets)))


@contextmanager
def _dead_workers_raise() -> Iterator[None]:
    """Turns the death of a writer process (killed for memory, say) into an error; FFCV would wait for ever."""
    done, dead = threading.Event(), threading.Event()
    before = set(multiprocessing.active_children())

    def watch() -> None:
        watched: set[Any] = set()
        while not done.wait(0.2):
            watched |= set(multiprocessing.active_children()) - before
            if any(worker.exitcode not in (None, 0) for worker in watched):
                dead.set()
                _thread.interrupt_main()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        if dead.is_set():
            raise SkdError("a process of FFCV's writer died (out of memory or disk?); try fewer --workers") from None
        raise
    finally:
        done.set()
        watcher.join()


def _verify(source: Source, part: Path) -> str:
    """Checks the counts and every label; returns the file's SHA-256."""
    written = BetonFile(part)
    if len(written) != len(source.targets) or not np.array_equal(written.targets, source.targets):
        raise SkdError(f"FFCV wrote {len(written)} samples that are not the source's {len(source.targets)}; try again")
    with part.open("rb") as file:
        return _sha256(file)


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_folder(source: Source, path: Path) -> Path:
    """Writes a source as PNG files, one folder a class, for training without FFCV."""
    from PIL import Image as PIL

    for index, target in enumerate(source.targets):
        folder = path / source.classes[target]
        folder.mkdir(parents=True, exist_ok=True)
        PIL.fromarray(source.load(index)).save(folder / f"{index:06d}.png")
    return path
