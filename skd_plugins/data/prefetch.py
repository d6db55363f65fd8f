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
from typing import Any

import torch
from torch import Tensor

from ..common.errors import SkdError
from .images import BetonImages, Broken, Images, Request
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
Raw = tuple[Tensor, Broken]  # uint8 [n, H, W, 3]


class ThreadBatches:
    """Batches of a `.beton` file, decoded by threads (the C code runs without Python's lock)."""

    def __init__(self, images: BetonImages, *, workers: int, pin: bool) -> None:
        self.images, self.workers, self.pin = images, max(1, workers), pin

    def fetch(self, batches: Iterator[Batch], epoch: int) -> Generator[tuple[Batch, Raw], None, None]:
        """The batches with their pixels, in order; up to two are decoded ahead."""
        waiting: deque[tuple[Batch, Tensor, list[Future[Broken]]]] = deque()

        def finished() -> tuple[Batch, Raw]:
            batch, pixels, shares = waiting.popleft()
            broken = {row: reason for share in shares for row, reason in share.result().items()}
            return batch, (pixels, dict(sorted(broken.items())))

        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="skd-decode")
        try:
            for batch in batches:
                request, rows = Request(epoch, batch.indices, *rows_of(batch)), len(batch.indices)
                # A fresh buffer each time: torch's pinned allocator reuses one only after the copy from it has ended.
                pixels = self.images.empty(request, self.pin)
                decode = self.images.decoder(request, pixels.numpy())
                # Interleaved shares, since the segments' images differ in cost.
                shares = [range(first, rows, self.workers) for first in range(min(self.workers, rows))]
                waiting.append((batch, pixels, [pool.submit(decode, share) for share in shares]))
                if len(waiting) > 2:
                    yield finished()
            while waiting:
                yield finished()
        finally:  # also when the consumer leaves early and the generator is closed
            pool.shutdown(wait=True, cancel_futures=True)


class ProcessBatches:
    """Batches that torch's worker processes make; without workers this process does."""

    def __init__(self, images: Images, *, workers: int, pin: bool) -> None:
        self.images = images
        self._sampler = _Sampler()
        self._loader = torch.utils.data.DataLoader(
            self.images,
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=_listed,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # a draw from torch's own would change the training steps of a resumed run
        )

    def fetch(self, batches: Iterator[Batch], epoch: int) -> Generator[tuple[Batch, Raw], None, None]:
        """The batches with their pixels, in order; torch's workers run ahead."""
        pending: deque[Batch] = deque()
        self._sampler.requests = self._ask(batches, epoch, pending)
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

    def _ask(self, batches: Iterator[Batch], epoch: int, pending: deque[Batch]) -> Iterator[Request]:
        """What torch asks its workers for, a few batches ahead of those that come back; `pending` gets the batches."""
        for number, batch in enumerate(batches):
            if number == 0 and self._loader.num_workers and _SHARED.is_dir():
                ahead = 2 * self._loader.num_workers  # torch's prefetch_factor
                needed = ahead * len(batch.indices) * 3 * self.images.spec.size(epoch) ** 2
                free = disk_usage(_SHARED).free
                if needed > free:  # torch's workers would wait for it for ever
                    raise SkdError(
                        f"{_SHARED} has {free >> 20} MB free, but {self._loader.num_workers} workers need up to "
                        f"{(needed >> 20) + 1} MB for the batches of {self.images.data.path}; make it larger (docker: "
                        f"--shm-size), {_WAYS_OUT}"
                    )
            pending.append(batch)
            yield Request(epoch, batch.indices, *rows_of(batch))


class _Sampler:
    """An object of its own, since a cycle of references would leave torch's workers to the garbage collector."""

    requests: Iterator[Any] = iter(())  # torch's type hints know lists only

    def __iter__(self) -> Iterator[Any]:
        return self.requests


def _outlive_signals(worker: int) -> None:
    """Lets only the training process end its workers: it needs them until the step after a signal to all processes."""
    signals = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while signal.sigwaitinfo(signals).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _listed(made: Any) -> tuple[Tensor, tuple[list[int], list[str]]]:
    """The broken rows as two lists, because pinning leaves those alone."""
    pixels, broken = made
    return pixels, (list(broken), list(broken.values()))
