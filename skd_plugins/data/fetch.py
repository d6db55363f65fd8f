"""Decoded batches, ahead of their use: by threads from `.beton` files, by processes from folders."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import SkdError
from .augment import Augmentation, center_boxes, training_boxes
from .beton.file import BetonFile
from .folder import FolderImages, Request
from .order import Batch

_SHARED = Path("/dev/shm")
_PATIENCE = 600  # seconds that torch waits for a batch of a worker
READER_DIED = re.compile(r"DataLoader (worker \(pid|timed out)")  # torch's words
READER_ADVICE = (
    "a process that reads images died or hangs: too little memory, or shared memory (docker: --shm-size, SLURM: "
    "--mem); use fewer workers, workers=0, or a .beton file, which needs none"
)
Raw = tuple[Tensor, dict[int, str]]  # uint8 [n, H, W, 3], and why rows of it could not be decoded


class BetonBatches:
    """Batches of a `.beton` file, decoded by threads (its C code runs without Python's lock)."""

    def __init__(
        self, data: BetonFile, spec: Augmentation, *, seed: int, clean: tuple[bool, ...], workers: int, pin: bool
    ) -> None:
        self.data, self.spec, self.seed, self.clean = data, spec, seed, clean
        self.workers, self.pin = max(1, workers), pin

    def fetch(self, batches: Iterator[Batch], epoch: int) -> Generator[tuple[Batch, Raw], None, None]:
        """The batches with their pixels, in order; up to two are decoded ahead."""
        waiting: deque[tuple[Batch, Tensor, list[Future[dict[int, str]]]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="skd-decode")
        try:
            for batch in batches:
                waiting.append((batch, *self._submit(pool, batch, epoch)))
                if len(waiting) > 2:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            # Reached at the end, on an error, and when the consumer leaves early (the generator is closed).
            pool.shutdown(wait=True, cancel_futures=True)

    def one(self, index: int, epoch: int, position: int, segment: int) -> tuple[Tensor, str]:
        """One image ``[H, W, 3]`` and why it can't be decoded (empty if it can)."""
        segments = np.array([segment])
        boxes, flips = self._boxes(np.array([index]), epoch, np.array([position]), segments)
        pixels = torch.empty(1, self.spec.image_size, self.spec.image_size, 3, dtype=torch.uint8)
        broken = self._decode(np.array([index]), boxes, flips, self._scaled(segments), pixels.numpy(), range(1))
        return pixels[0], broken.get(0, "")

    def _submit(
        self, pool: ThreadPoolExecutor, batch: Batch, epoch: int
    ) -> tuple[Tensor, list[Future[dict[int, str]]]]:
        size, rows, anchors = self.spec.image_size, len(batch.indices), len(batch.positions)
        segments = np.arange(rows) // anchors
        boxes, flips = self._boxes(batch.indices, epoch, batch.positions[np.arange(rows) % anchors], segments)
        # A fresh buffer each time: torch's pinned allocator reuses one only after the copy from it has ended.
        pixels = torch.empty(rows, size, size, 3, dtype=torch.uint8, pin_memory=self.pin)
        out = pixels.numpy()
        # Interleaved shares, since the segments' images differ in cost.
        shares = [range(first, rows, self.workers) for first in range(min(self.workers, rows))]
        work = batch.indices, boxes, flips, self._scaled(segments), out
        return pixels, [pool.submit(self._decode, *work, share) for share in shares]

    def _boxes(
        self, indices: NDArray[np.int64], epoch: int, positions: NDArray[np.int64], segments: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        heights, widths = self.data.heights[indices], self.data.widths[indices]
        boxes, flips = training_boxes(
            self.spec, heights, widths, seed=self.seed, epoch=epoch, positions=positions, segments=segments
        )
        clean = np.array(self.clean)[segments]
        boxes[clean] = center_boxes(self.spec, heights[clean], widths[clean])
        return boxes, flips & ~clean

    def _scaled(self, segments: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows may be decoded to less than their size ``[n]``."""
        return self.spec.scaled_decoding & ~np.array(self.clean)[segments]

    def _decode(
        self,
        indices: NDArray[np.int64],
        boxes: NDArray[np.int64],
        flips: NDArray[np.bool_],
        scaled: NDArray[np.bool_],
        out: NDArray[np.uint8],
        rows: range,
    ) -> dict[int, str]:
        broken = {}
        for row in rows:
            reason = self.data.crop(int(indices[row]), boxes[row], bool(flips[row]), out[row], scaled=bool(scaled[row]))
            if reason:
                broken[row] = reason
        return broken

    @staticmethod
    def _finished(batch: Batch, pixels: Tensor, shares: list[Future[dict[int, str]]]) -> tuple[Batch, Raw]:
        broken: dict[int, str] = {}
        for share in shares:
            broken |= share.result()  # an exception in a thread is raised here
        return batch, (pixels, dict(sorted(broken.items())))


class FolderBatches:
    """Batches of a folder, decoded by torch's worker processes."""

    def __init__(self, images: FolderImages, *, workers: int, pin: bool) -> None:
        self.images = images
        self._requests = _Requests()
        self._loader = torch.utils.data.DataLoader(
            images,
            batch_sampler=self._requests,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            persistent_workers=workers > 0,
            timeout=_PATIENCE if workers else 0,
            generator=torch.Generator(),  # torch's own is the training step's: a resumed one would differ by this draw
        )

    def fetch(self, batches: Iterator[Batch], epoch: int) -> Generator[tuple[Batch, Raw], None, None]:
        """The batches with their pixels, in order; the workers run ahead as torch has them do."""
        batches = self._checked(batches)
        pending = self._requests.start(batches, epoch)
        try:
            for pixels, broken in self._loader:
                yield pending.popleft(), (pixels, dict(zip(*broken, strict=True)))
        except (RuntimeError, ConnectionError, EOFError) as error:
            # The connection ends where torch comes for what the process had still shared.
            if isinstance(error, RuntimeError) and not READER_DIED.search(str(error)):
                raise
            # Or torch's handler of SIGCHLD raises too, for the same process, wherever the program is then.
            self._loader._iterator._shutdown_workers()  # type: ignore[union-attr]
            raise SkdError(f"{READER_ADVICE} [{type(error).__name__}: {error}]") from error

    def _checked(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; raises SkdError where torch's workers would wait for ever for shared memory to put one."""
        for number, batch in enumerate(batches):
            if number == 0 and self._loader.num_workers and _SHARED.is_dir():
                ahead = 2 * self._loader.num_workers  # torch's prefetch_factor
                needed, free = ahead * len(batch.indices) * 3 * self.images.spec.image_size**2, disk_usage(_SHARED).free
                if needed > free:
                    raise SkdError(
                        f"{_SHARED} has {free >> 20} MB free, but {self._loader.num_workers} workers need up to "
                        f"{(needed >> 20) + 1} MB for the batches of {self.images.data.path}; make it larger (docker: "
                        "--shm-size), use fewer workers, workers=0, or a .beton file, which needs none"
                    )
            yield batch

    def one(self, index: int, epoch: int, position: int, segment: int) -> tuple[Tensor, str]:
        """One image ``[H, W, 3]`` and why it can't be decoded (empty if it can)."""
        return self.images[index, epoch, position, segment]


class _Requests:
    """The sampler: runs a few batches ahead of `FolderBatches.fetch`."""

    def __init__(self) -> None:
        self.start(iter(()), 0)

    def start(self, batches: Iterator[Batch], epoch: int) -> deque[Batch]:
        """Sets what the next ``iter()`` asks for; returns where it notes what it has asked for."""
        self._batches, self._epoch = batches, epoch
        self._pending: deque[Batch] = deque()
        return self._pending

    def __iter__(self) -> Iterator[list[Request]]:
        batches, epoch, pending = self._batches, self._epoch, self._pending
        for batch in batches:
            pending.append(batch)
            anchors = len(batch.positions)
            yield [
                (int(index), epoch, int(batch.positions[row % anchors]), row // anchors)
                for row, index in enumerate(batch.indices)
            ]


def _collate(samples: list[tuple[Tensor, str]]) -> tuple[Tensor, tuple[list[int], list[str]]]:
    """Stacks images; those that could not be decoded are listed (as a pair of lists, which pinning leaves alone)."""
    broken = [(row, reason) for row, (_, reason) in enumerate(samples) if reason]
    return torch.stack([image for image, _ in samples]), ([row for row, _ in broken], [reason for _, reason in broken])
