"""`make_loader`: batches from a `.beton` file or an image folder, the same for both."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.loader import PrefetchLoader
from torch import Tensor

from ..common.errors import SkdError
from .augment import Augmentation
from .beton.file import BetonFile
from .fetch import BetonBatches, FolderBatches
from .folder import FolderData, FolderImages
from .order import Batch, TrainingOrder, evaluation_shard


class Loader:
    """An iterable of ``(input, target)`` on the device, made by `make_loader`.

    ``input`` is ``[S * B, 3, H, W]``, normalised, channels last; ``target`` is ``[S * B]``. Images travel as uint8 and
    are normalised on the device (timm's `PrefetchLoader`), the next batch while the current one is used.

    Attributes:
        order: the training order, None for evaluation.
        indices: the samples this process evaluates, in order, None for training.
        classes: class names, None if the data does not name them.
        num_classes: number of classes.
        num_samples: number of samples, over all processes.
        mean: channel means in [0, 1] that the images are normalised with.
        std: the standard deviations.
        skipped: sample index to reason, of the images left out since the last ``iter()`` (evaluation) or so far
            (training, where another image of the class takes the place).
    """

    def __init__(
        self,
        data: BetonFile | FolderData,
        spec: Augmentation,
        *,
        order: TrainingOrder | None,
        indices: NDArray[np.int64] | None,
        batch_size: int,
        workers: int,
        skip_broken: bool,
        device: torch.device,
        dtype: torch.dtype,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.data, self.spec, self.order, self.indices = data, spec, order, indices
        self.classes = data.classes
        self.num_classes = len(data.classes) if data.classes else int(data.targets.max()) + 1
        self.num_samples = len(data)
        self.mean, self.std = tuple(mean), tuple(std)
        self.skipped: dict[int, str] = {}
        self.batch_size, self.workers, self.skip_broken = batch_size, workers, skip_broken
        self.segments = order.segments if order else ("clean",)
        self._next = (0, 0)
        self._pin = device.type == "cuda"
        seed = order.seed if order else 0
        clean = tuple(role == "clean" for role in self.segments)
        self._images: BetonBatches | FolderBatches
        if isinstance(data, BetonFile):
            self._images = BetonBatches(data, spec, seed=seed, clean=clean, workers=workers, pin=self._pin)
        else:
            self._images = FolderBatches(
                FolderImages(data, spec, seed=seed, clean=clean), workers=workers, pin=self._pin
            )
        self._on_device = PrefetchLoader(
            _Host(self),  # type: ignore[arg-type]  # it only iterates
            mean=self.mean, std=self.std, device=device, img_dtype=dtype,
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        if self.order:
            return self.order.steps * self.order.accumulation
        return -(-len(self._shard) // self.batch_size)

    @property
    def _shard(self) -> NDArray[np.int64]:
        assert self.indices is not None
        return self.indices

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """What the next ``iter()`` gives: an epoch's steps from `start_step` on. Without it, epochs follow 0, 1, ..."""
        self._next = (epoch, start_step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if len(self):
            # Closing it ends the threads or empties the workers' queues when the epoch is left early.
            with closing(iter(self._on_device)) as batches:
                yield from batches

    def host_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """``(uint8 [n, 3, H, W], target [n])`` in host memory, before normalisation."""
        epoch, start = self._next
        if self.order:
            self._next = (epoch + 1, 0)
            batches: Iterator[Batch] = self.order.batches(epoch, start)
        else:
            self.skipped = {}
            parts = np.split(self._shard, range(self.batch_size, len(self._shard), self.batch_size))
            batches = (Batch(part, part) for part in parts)
        with closing(self._images.fetch(batches, epoch)) as fetched:
            for batch, (pixels, broken) in fetched:
                indices = batch.indices
                if broken:
                    pixels, indices = self._without(pixels, broken, batch, epoch)
                    if not len(indices):
                        continue
                target = torch.from_numpy(self.data.targets[indices])
                yield pixels.permute(0, 3, 1, 2), target.pin_memory() if self._pin else target

    def fits(self, num_classes: int) -> bool:
        """Whether a network of so many classes can be used on the data: of named classes it has to have as many."""
        return self.num_classes == num_classes if self.classes else self.num_classes <= num_classes

    def picture(self, index: int) -> NDArray[np.uint8]:
        """What a network sees of a sample, before normalisation: uint8 ``[H, W, 3]``."""
        pixels, reason = self._images.one(index, 0, 0, 0)
        if reason:
            raise SkdError(f"{self.data.name_of(index)} can't be decoded: {reason}")
        picture: NDArray[np.uint8] = pixels.numpy()
        return picture

    def _without(
        self, pixels: Tensor, broken: dict[int, str], batch: Batch, epoch: int
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Raises for a broken image, or leaves it out (evaluation), or puts another of its class there (training)."""
        for row, reason in broken.items():
            index = int(batch.indices[row])
            if not self.skip_broken:
                raise SkdError(
                    f"{self.data.name_of(index)} can't be decoded: {reason}; repair it, or use skip_broken=true to "
                    "leave such images out"
                )
            self.skipped[index] = reason
        if self.order is None:
            sound = np.setdiff1d(np.arange(len(pixels)), list(broken))
            return pixels[torch.from_numpy(sound)], batch.indices[sound]
        for row in broken:
            pixels[row] = self._substitute(batch, row, epoch)
        return pixels, batch.indices

    def _substitute(self, batch: Batch, row: int, epoch: int) -> Tensor:
        """The next decodable image of the class, so that batches keep their shape and their classes."""
        assert self.order is not None
        anchors = len(batch.positions)
        position, segment = batch.positions[row % anchors : row % anchors + 1], row // anchors
        index = int(batch.indices[row])
        same = self.order.by_class[self.order.targets[self.order.by_class] == self.order.targets[index]]
        place = int(np.flatnonzero(same == index)[0])
        for candidate in np.roll(same, -place - 1)[:-1]:
            if int(candidate) not in self.skipped:
                pixels, reason = self._images.one(int(candidate), epoch, int(position[0]), segment)
                if not reason:
                    return pixels
                self.skipped[int(candidate)] = reason
        raise SkdError(f"{self.data.name_of(index)} can't be decoded, nor can any other image of its class")


class _Host:
    """What timm's `PrefetchLoader` wraps.

    The loader is not kept alive: in a cycle of references torch's worker processes would be left to the garbage
    collector, which closes their queues before it tells them to end, and then waits 5 s for each.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = weakref.ref(loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader = self._loader()
        assert loader is not None  # who iterates holds it
        return loader.host_batches()


def open_data(path: str | Path) -> BetonFile | FolderData:
    """A `.beton` file or an image folder."""
    path = Path(path)
    if path.is_dir():
        return FolderData(path)
    if path.suffix == ".beton" or path.is_file():
        return BetonFile(path)
    raise SkdError(f"data path {path} does not exist; give a .beton file or a folder with one subfolder a class")


def make_loader(
    path: str | Path,
    *,
    segments: Sequence[str] = ("anchor",),
    batch_size: int = 256,
    train: bool = True,
    augmentation: Augmentation | None = None,
    image_size: int | None = None,
    seed: int = 0,
    workers: int = 4,
    couples: bool = False,
    even: bool = False,
    accumulation: int = 1,
    rank: int = 0,
    world: int = 1,
    skip_broken: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> Loader:
    """Batches of ``(input [S * B, 3, H, W], target [S * B])`` from a `.beton` file or an image folder.

    Training: random crop and flip; every anchor once an epoch; the same seed gives the same order and pixels for any
    number of workers and processes (see `TrainingOrder` and `rng`). Evaluation: centre crop, in order, each process its
    own share of the samples.

    Args:
        path: the file or the folder (one subfolder a class).
        segments: what a batch consists of, see `Method.segments`. Training only.
        batch_size: training: anchors a step over all processes and micro-batches; evaluation: images a batch.
        train: random or centre crops.
        augmentation: crop and flip; ImageNet's by default.
        image_size: overrides the augmentation's.
        seed: of order, pairs, crops and flips.
        workers: decoding threads (`.beton`) or processes (folder; 0 decodes in this process).
        couples: see `TrainingOrder`.
        even: see `TrainingOrder`.
        accumulation: micro-batches a step.
        rank: this process.
        world: number of processes.
        skip_broken: leave undecodable images out and count them instead of raising.
        device: where batches go.
        dtype: of ``input``.
        mean: channel means in [0, 1].
        std: channel standard deviations.

    Raises:
        SkdError: here for bad data or arguments; while iterating for an undecodable image, named.
    """
    spec = augmentation or Augmentation()
    if image_size is not None:
        spec = replace(spec, image_size=image_size)
    if batch_size < 1 or workers < 0 or spec.image_size < 1:
        raise SkdError(f"batch_size={batch_size}, workers={workers}, image_size={spec.image_size}: must be positive")
    data = open_data(path)
    order = indices = None
    if train:
        order = TrainingOrder(
            data.targets, segments=segments, batch_size=batch_size, seed=seed, couples=couples, even=even,
            rank=rank, world=world, accumulation=accumulation,
        )  # fmt: skip
    else:
        indices = evaluation_shard(len(data), rank, world)
    return Loader(
        data, spec, order=order, indices=indices, batch_size=batch_size, workers=workers, skip_broken=skip_broken,
        device=torch.device(device), dtype=dtype, mean=mean, std=std,
    )  # fmt: skip
