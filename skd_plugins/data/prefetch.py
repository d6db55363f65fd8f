"""Prefetched, decoded batches, made by threads or by processes."""

import os
import re
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage

import torch
from torch import Tensor

from ..common.errors import SkdError
from .images import BetonImages, Images, Request
from .order import Batch, rows_of

_SHARED = Path("/dev/shm")
READER_DIED = re.compile(r"DataLoader worker \(pid")  # torch's words
_WAYS_OUT = (
    "use fewer workers, workers=0, or a .beton file, which needs none (but for auto_augment, color_jitter, grayscale)"
)
READER_ADVICE = (
    "a process that reads images died: too little memory, or shared memory (docker: --shm-size, SLURM: "
    f"--mem); {_WAYS_OUT}"
)
Raw = tuple[Tensor, dict[int, str]]  # uint8 [n, H, W, 3], and why some of its rows can't be decoded


class ThreadBatches:
    """Batches of a `.beton` file, decoded by threads (the C code runs without Python's lock)."""

    def __init__(self, images: BetonImages, *, workers: int, pin: bool) -> None:
        self.images, self.workers, self.pin = images, max(1, workers), pin

    def fetch(self, batches: Iterator[Batch], epoch: int) -> Generator[tuple[Batch, Raw], None, None]:
        """The batches with their pixels, in order; up to two are decoded ahead."""
        waiting: deque[tuple[Batch, Tensor, list[Future[dict[int, str]]]]] = deque()

        def finished() -> tuple[Batch, Raw]:
            batch, pixels, shares = waiting.popleft()
            broken = {row: reason for share in shares for row, reason in share.result().items()}
            return batch, (pixels, dict(sorted(broken.items())))

        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="skd-decode")
        try:
            for batch in batches:
                waiting.append((batch, *self._submit(pool, batch, epoch)))
                if len(waiting) > 2:
                    yield finished()
            while waiting:
                yield finished()
        finally:  # also when the consumer leaves early and the generator is closed
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, batch: Batch, epoch: int
    ) -> tuple[Tensor, list[Future[dict[int, str]]]]:
        size, rows = self.images.spec.size(epoch), len(batch.indices)
        # A fresh buffer each time: torch's pinned allocator reuses one only after the copy from it has ended.
        pixels = torch.empty(rows, size, size, 3, dtype=torch.uint8, pin_memory=self.pin)
        decode = self.images.decoder(batch.indices, *rows_of(batch), epoch, pixels.numpy())
        # Interleaved shares, since the segments' images differ in cost.
        shares = [range(first, rows, self.workers) for first in range(min(self.workers, rows))]
        return pixels, [pool.submit(decode, share) for share in shares]


class ProcessBatches:
    """Batches that torch's worker processes make; without workers this process does."""

    def __init__(self, images: Images, *, workers: int, pin: bool) -> None:
        self.images = images
        self._requests = _Requests()
        self._loader = torch.utils.data.DataLoader(
            self.images,
            batch_sampler=self._requests,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # a draw from torch's own would change the training steps of a resumed run
        )

    def fetch(self, batches: Iterator[Batch], epoch: int) -> Generator[tuple[Batch, Raw], None, None]:
        """The batches with their pixels, in order; torch's workers run ahead."""
        pending = self._requests.start(self._checked(batches, epoch), epoch)
        try:
            for pixels, broken in self._loader:
                yield pending.popleft(), (pixels, dict(zip(*broken, strict=True)))
        except (RuntimeError, ConnectionError, EOFError) as error:
            # torch reports a dead worker, or loses the connection while it fetches what the worker shared.
            if isinstance(error, RuntimeError) and not READER_DIED.search(str(error)):
                raise
            # Else torch's SIGCHLD handler raises again for the same worker, at some later point in the program.
            self._loader._iterator._shutdown_workers()  # type: ignore[union-attr]  # it is not None while iterating
            raise SkdError(f"{READER_ADVICE} [{type(error).__name__}: {error}]") from error

    def _checked(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """The same batches, or an error where torch's workers would wait for ever for shared memory."""
        for number, batch in enumerate(batches):
            if number == 0 and self._loader.num_workers and _SHARED.is_dir():
                ahead = 2 * self._loader.num_workers  # torch's prefetch_factor
                needed = ahead * len(batch.indices) * 3 * self.images.spec.size(epoch) ** 2
                free = disk_usage(_SHARED).free
                if needed > free:
                    raise SkdError(
                        f"{_SHARED} has {free >> 20} MB free, but {self._loader.num_workers} workers need up to "
                        f"{(needed >> 20) + 1} MB for the batches of {self.images.data.path}; make it larger (docker: "
                        f"--shm-size), {_WAYS_OUT}"
                    )
            yield batch


class _Requests:
    """The sampler of `ProcessBatches`: torch runs it a few batches ahead.

    It is an object of its own because a cycle of references would leave the workers to the garbage collector.
    """

    def __init__(self) -> None:
        self.start(iter(()), 0)

    def start(self, batches: Iterator[Batch], epoch: int) -> deque[Batch]:
        """Sets what the next ``iter()`` asks for; returns the queue of what it has asked for."""
        self._batches, self._epoch = batches, epoch
        self._pending: deque[Batch] = deque()
        return self._pending

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, pending = self._epoch, self._pending
        for batch in self._batches:
            pending.append(batch)
            rows = zip(batch.indices.tolist(), *(values.tolist() for values in rows_of(batch)), strict=True)
            yield [(index, epoch, position, segment) for index, position, segment in rows]


def _outlive_signals(worker: int) -> None:
    """Lets only the training process end its workers: it needs them until the step after a signal to all processes."""
    signals = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while signal.sigwaitinfo(signals).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _collate(samples: list[tuple[Tensor, str]]) -> tuple[Tensor, tuple[list[int], list[str]]]:
    """Stacks the images and lists the broken ones, as two lists because pinning leaves those alone."""
    broken = {row: reason for row, (_, reason) in enumerate(samples) if reason}
    return torch.stack([image for image, _ in samples]), (list(broken), list(broken.values()))
