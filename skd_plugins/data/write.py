"""Writing `.beton` files with FFCV's writer: verified, described, and never half there."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import zlib
from contextlib import contextmanager, suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import SkdError
from ..progress import Meter, tracked
from .beton import BetonFile
from .lock import only_one
from .rng import keys
from .sources import Image, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

# FFCV fails on an image that is larger than a page, and the file's size is a multiple of it. A large set is worth a
# page that takes a photograph of tens of megapixels as JPEG.
_PAGE, _LARGE_SET, _LARGE_PAGE = 1 << 23, 10_000, 1 << 25


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
    if source.targets.min() < 0 or source.targets.max() >= len(source.classes):
        raise SkdError(
            f"{source.description} has labels from {source.targets.min()} to {source.targets.max()}, but "
            f"{len(source.classes)} classes"
        )
    options: dict[str, Any] = {
        "max_resolution": max_resolution, "jpeg_quality": jpeg_quality, "raw_share": raw_share,
    }  # fmt: skip
    with only_one(path):
        return _write(source, path, options, workers)


def _write(source: Source, path: Path, options: dict[str, Any], workers: int) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    parts = {end: part.with_name(part.name + end) for end in (".crc32", ".json", "")}
    try:
        _run_writer(source, part, workers=workers, **options)
        written, checksum = _verify(source, part)
        indices = tracked(range(len(written)), "checksums of the images")
        sums = [zlib.crc32(written.stored(index).data) for index in indices]
        checks = np.array(sums, dtype="<u4").tobytes()
        info = {
            "classes": source.classes,
            "source": source.description,
            "num_samples": len(source.targets),
            "options": options,
            "tables_sha256": written.tables_sha256,
            "crc32_sha256": hashlib.sha256(checks).hexdigest(),
            "sha256": checksum,
            "skd_plugins": __version__,
        }
        parts[".crc32"].write_bytes(checks)
        parts[".json"].write_text(json.dumps(info, indent=1) + "\n")
        for file in parts.values():
            os.chmod(file, 0o644)
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        # The data come last: a new data file beside an old description would be refused.
        path.unlink(missing_ok=True)
        for end, file in parts.items():
            os.replace(file, path.with_name(path.name + end))
    finally:
        for file in parts.values():
            file.unlink(missing_ok=True)
    return path


def _load(source: Source, index: int, max_resolution: int | None = None) -> Image:
    try:
        image = source.load(index)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"not an RGB image: {image.dtype} {image.shape}")
        if min(image.shape) < 1 or max(image.shape) > 65535:
            raise ValueError(f"not from 1 to 65535 pixels a side: {image.shape}")
        if max_resolution is not None and int(max_resolution / max(image.shape) * min(image.shape[:2])) < 1:
            raise ValueError(f"too narrow to be scaled down to {max_resolution} pixels: {image.shape}")
        return np.ascontiguousarray(image)
    except Exception as error:  # anything a decoder may raise
        raise SkdError(f"{source.name_of(index)} (index {index}) can't be read: {error}") from error


class _Reported:
    """What the writer's processes index. An unreadable image is noted instead of raised.

    FFCV's writer waits for ever when a worker dies of an exception, so none may leave `__getitem__`; after the first
    error the rest is skipped with a placeholder and the file thrown away.
    """

    def __init__(self, source: Source, max_resolution: int | None) -> None:
        self.source, self.max_resolution = source, max_resolution
        self.failed: Any = multiprocessing.Array("c", 4096)

    def __len__(self) -> int:
        return len(self.source.targets)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        if not self.failed.value:
            # FFCV draws from this generator whether to store pixels; its state would depend on the number of processes.
            np.random.seed(int(keys(index)[0] >> np.uint64(32)))
            try:
                return _load(self.source, int(index), self.max_resolution), int(self.source.targets[index])
            except SkdError as error:  # the main process raises it
                with self.failed.get_lock():
                    self.failed.value = self.failed.value or str(error).encode()[:4095]
        return np.zeros((1, 1, 3), dtype=np.uint8), 0


def _run_writer(
    source: Source, part: Path, *, workers: int, max_resolution: int | None, jpeg_quality: int, raw_share: float
) -> None:
    writer, fields = _ffcv()
    mode = {0.0: "jpg", 1.0: "raw"}.get(raw_share, "proportion")
    images = fields.RGBImageField(
        write_mode=mode, max_resolution=max_resolution, jpeg_quality=jpeg_quality, compress_probability=1 - raw_share
    )
    reported = _Reported(source, max_resolution)
    workers = min(workers or os.cpu_count() or 1, len(source.targets))
    largest = _largest_image(source, max_resolution) if raw_share else 0
    page = _LARGE_PAGE if len(source.targets) >= _LARGE_SET and max_resolution is None else _PAGE
    page = max(page, 1 << int(np.ceil(np.log2(largest + 1))))
    dataset = writer.DatasetWriter(
        str(part), {"image": images, "label": fields.IntField()}, page_size=page, num_workers=workers
    )
    with _supervised(writer, dataset):
        dataset.from_indexed_dataset(reported, chunksize=max(1, min(100, len(reported) // (4 * workers))))
    if reported.failed.value:
        raise SkdError(reported.failed.value.decode(errors="replace"))


def _ffcv() -> tuple[Any, Any]:
    import torch

    threads = torch.get_num_threads()
    try:
        import numba

        # FFCV starts numba's threads. Of its own choice, TBB, a process that has forked never ends where there is only
        # one processor (seen with numba 0.68: it waits for TBB's workers when Python unloads the module).
        if "NUMBA_THREADING_LAYER" not in os.environ:
            numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
        from ffcv import fields, writer
    except ImportError as error:
        raise SkdError(f"writing .beton files needs FFCV ({error}): install skd_plugins[ffcv]") from None
    torch.set_num_threads(threads)  # importing FFCV sets it to 1
    return writer, fields


def _largest_image(source: Source, max_resolution: int | None) -> int:
    """Bytes of the largest image as pixels."""
    if max_resolution is not None:
        return 3 * max_resolution**2
    indices = tracked(range(len(source.targets)), "looking for the largest image")
    return max(_load(source, index).nbytes for index in indices)


@contextmanager
def _supervised(module: Any, dataset: Any) -> Iterator[None]:
    """Turns the death of a writer process (killed for memory, say) into an error; FFCV would wait for ever.

    A timer looks after the processes. Its signal also wakes the main thread where FFCV blocks in a queue's read, and
    does so where Ctrl-C is ignored, as in a shell's background jobs.

    Args:
        module: ``ffcv.writer``.
        dataset: the `DatasetWriter` at work.
    """
    started: list[Any] = []

    # Not `multiprocessing.active_children()`: who asks it first, maybe FFCV itself, makes it forget who has died.
    # Forked, since a source is made of functions, which can't be pickled.
    class Process(multiprocessing.get_context("fork").Process):  # type: ignore[misc]
        def start(self) -> None:
            super().start()
            started.append(self)

    def look(*_: Any) -> None:
        if any(worker.exitcode not in (None, 0) for worker in started):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise SkdError(
                "a process of FFCV's writer died (out of memory or disk, or a JPEG of many MB?); try fewer --workers "
                "or a --max-resolution"
            )

    watch = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    original, module.Process = module.Process, Process
    try:
        if watch:
            previous = signal.signal(signal.SIGALRM, look)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        try:
            yield
            for worker in started:  # FFCV leaves them
                worker.join()
        finally:
            if watch:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, previous)
            module.Process = original
    except BaseException:
        for worker in started:
            worker.kill()
            worker.join()
        memory = getattr(dataset, "metadata_sm", None)
        if isinstance(memory, SharedMemory):  # FFCV frees it only when all went well
            memory.close()
            with suppress(FileNotFoundError):
                memory.unlink()
        raise


def _verify(source: Source, part: Path) -> tuple[BetonFile, str]:
    """Checks the counts and every label; returns the file and its SHA-256."""
    written = BetonFile(part)
    if len(written) != len(source.targets) or not np.array_equal(written.targets, source.targets):
        raise SkdError(f"FFCV wrote {len(written)} samples that are not the source's {len(source.targets)}; try again")
    digest = hashlib.sha256()
    with part.open("rb") as file, Meter("checksum of the file", part.stat().st_size) as meter:
        while block := file.read(1 << 20):
            digest.update(block)
            meter.advance(len(block))
    return written, digest.hexdigest()


def write_folder(source: Source, path: Path) -> Path:
    """Writes a source as PNG files, one folder a class, for training without FFCV."""
    from PIL import Image as PIL

    for index, target in enumerate(tracked(source.targets, "writing")):
        folder = path / source.classes[target]
        folder.mkdir(parents=True, exist_ok=True)
        PIL.fromarray(source.load(index)).save(folder / f"{index:06d}.png")
    return path
