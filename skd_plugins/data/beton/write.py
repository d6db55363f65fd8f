"""Writes `.beton` files with FFCV's writer: verified, described, and either complete or absent."""

import hashlib
import multiprocessing
import os
import signal
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL

from ...common.errors import SkdError
from ...common.files import file_sha256, json_text
from ...common.locks import only_one
from ...common.meter import tracked
from ...common.rng import keys
from ..sources import Image, Source
from .file import BetonFile

# FFCV fails on an image larger than a page, and writes whole pages: one for the tables and at least one a process. So a
# small set (in bytes of its pixels) gets FFCV's smallest page, or one that holds its images. For many images we can
# afford a page that holds a photograph of tens of megapixels as JPEG.
_SMALL_PAGE, _SMALL_SET = 1 << 21, 1 << 25
_PAGE, _LARGE_SET, _LARGE_PAGE = 1 << 23, 10_000, 1 << 25
_JPEG_TABLES = 1000  # bytes; a JPEG of a tiny image is larger than its pixels


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
            _run_writer(source, parts[""], **options, workers=workers)
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
        PIL.fromarray(source.load(index)).save(folder / f"{index:06d}.png")
    return path


def _run_writer(
    source: Source, part: Path, *, max_resolution: int | None, jpeg_quality: int, raw_share: float, workers: int
) -> None:
    """Writes a source to `part`; for the options see `write_beton`."""
    writer, fields = _ffcv()
    images = fields.RGBImageField(
        write_mode={0.0: "jpg", 1.0: "raw"}.get(raw_share, "proportion"), max_resolution=max_resolution,
        jpeg_quality=jpeg_quality, compress_probability=1 - raw_share,
    )  # fmt: skip
    reported = _Reported(source)
    page, useful = _page_size(source, max_resolution, raw_share)
    workers = min(workers or min(os.cpu_count() or 1, useful), len(source.targets))
    dataset = writer.DatasetWriter(
        str(part), {"image": images, "label": fields.IntField()}, page_size=page, num_workers=workers
    )
    with _supervised(writer, dataset):
        dataset.from_indexed_dataset(reported, chunksize=max(1, min(100, len(reported) // (4 * workers))))
    if reported.failed.value:
        raise SkdError(reported.failed.value.decode(errors="replace"))


def _ffcv() -> tuple[Any, Any]:
    """FFCV's modules; they are optional and take seconds to import."""
    try:
        import numba
        import torch

        # FFCV starts numba's threads. With numba's default, TBB, a process that has forked never ends on a machine with
        # one processor (seen with numba 0.68: it waits for TBB's workers when Python unloads the module).
        if "NUMBA_THREADING_LAYER" not in os.environ:
            numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
        threads = torch.get_num_threads()
        from ffcv import fields, writer
    except ImportError as error:
        raise SkdError(f"writing .beton files needs FFCV ({error}): install skd_plugins[ffcv]") from None
    torch.set_num_threads(threads)  # importing FFCV sets it to 1
    return writer, fields


def _page_size(source: Source, max_resolution: int | None, raw_share: float) -> tuple[int, int]:
    """Bytes of a page, and how many processes can fill one each."""
    count, total, largest = len(source.targets), 0, 0
    bound = float("inf") if max_resolution is None else 3 * max_resolution**2
    for index in tracked(range(count), "looking for the largest image"):
        size = int(min(_load(source, index).nbytes, bound))
        total, largest = total + size + _JPEG_TABLES, max(largest, size)
        if total > _SMALL_SET and (not raw_share or max_resolution is not None):
            largest = 3 * max_resolution**2 if raw_share and max_resolution is not None else 0
            break
    if total <= _SMALL_SET:
        page = max(_SMALL_PAGE, 1 << (largest + _JPEG_TABLES).bit_length())
        return page, -(-total // page)
    page = _LARGE_PAGE if count >= _LARGE_SET and max_resolution is None else _PAGE
    return max(page, 1 << largest.bit_length()), count


def _load(source: Source, index: int) -> Image:
    try:
        return np.ascontiguousarray(source.load(index))
    except Exception as error:  # anything a decoder may raise
        raise SkdError(f"{source.name_of(index)} (index {index}) can't be read: {error}") from error


class _Reported:
    """What the writer's processes index; it notes an unreadable image instead of raising.

    FFCV's writer waits for ever when an exception ends a worker, so none may leave `__getitem__`. After the first error
    the other images are replaced by a placeholder, and the file is thrown away.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.failed: Any = multiprocessing.Array("c", 4096)

    def __len__(self) -> int:
        return len(self.source.targets)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        if not self.failed.value:
            # FFCV draws from this generator whether to store pixels. Unseeded, the draw would depend on the workers.
            np.random.seed(int(keys(index)[0] >> np.uint64(32)))
            try:
                return _load(self.source, int(index)), int(self.source.targets[index])
            except SkdError as error:  # the main process raises it
                with self.failed.get_lock():
                    self.failed.value = self.failed.value or str(error).encode()[:4095]
        return np.zeros((1, 1, 3), dtype=np.uint8), 0


@contextmanager
def _supervised(module: Any, dataset: Any) -> Iterator[None]:
    """Turns the death of a writer process (killed for memory, say) into an error.

    A timer checks the processes. Its signal also wakes the main thread when FFCV blocks in a queue's read, even where
    Ctrl-C is ignored, as in a shell's background jobs.

    Args:
        module: ``ffcv.writer``.
        dataset: the `DatasetWriter` at work.
    """
    started: list[Any] = []

    # Not `multiprocessing.active_children()`, which reports a dead process to its first caller only, maybe FFCV.
    # Forked, since a source is made of functions, which can't be pickled.
    class Process(multiprocessing.get_context("fork").Process):  # type: ignore[misc]
        def start(self) -> None:
            super().start()
            started.append(self)

        def run(self) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too; this process stops them
            super().run()

    def look(*_: Any) -> None:
        if any(worker.exitcode not in (None, 0) for worker in started):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise SkdError(
                "a process of FFCV's writer died (out of memory or disk, or a JPEG of many MB?); try fewer --workers "
                "or a --max-resolution"
            )

    watch = threading.current_thread() is threading.main_thread()  # Python handles signals only there
    original, module.Process = module.Process, Process
    try:
        if watch:
            previous = signal.signal(signal.SIGALRM, look)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        try:
            yield
            for worker in started:  # FFCV does not join them
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
