"""`make_loader`: batches from a `.beton` file or an image folder, the same for both."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.loader import PrefetchLoader
from torch import Tensor

from ..common.errors import SkdError
from .augment import Augmentation
from .beton.file import BetonFile
from .images import BetonImages, FolderImages, Images
from .order import UNDIVIDED, Batch, Division, EvaluationOrder, Indices, Order, TrainingOrder
from .policy import Erasing
from .prefetch import ProcessBatches, ThreadBatches
from .sources import FolderData


class Loader:
    """An iterable of ``(input, target)`` on the device, made by `make_loader`.

    ``input`` is ``[S * B, 3, H, W]``, normalised, channels last; ``target`` is ``[S * B]``. Images travel as uint8 and
    are normalised on the device by timm's `PrefetchLoader`, which copies the next batch while the current one is used.

    Attributes:
        mix: gets each training batch before random erasing, and gives the one that is used instead; None for none.
        order: the training order, None for evaluation.
        indices: the samples that this process evaluates, in order, None for training.
        classes: class names, None if the data does not name them.
        num_samples: over all processes.
        skipped: why each broken sample was left out since the last ``iter()`` (evaluation), or replaced by another
            image of its class so far (training).
    """

    def __init__(
        self,
        data: BetonFile | FolderData,
        spec: Augmentation,
        order: Order,
        *,
        workers: int,
        skip_broken: bool,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.data, self._order, self._skip_broken = data, order, skip_broken
        self.order = order if isinstance(order, TrainingOrder) else None
        self.indices = order.indices if isinstance(order, EvaluationOrder) else None
        self.segments = order.segments
        self.classes = data.classes
        self.num_classes = len(data.classes) if data.classes else int(data.targets.max()) + 1
        self.num_samples = len(data)
        self.mean, self.std = spec.mean, spec.std
        self.skipped: dict[int, str] = {}
        self.mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self._next = (0, 0)
        self._pin = device.type == "cuda"
        clean = tuple(role == "clean" for role in order.segments)
        self._erasing = None
        if spec.random_erasing and self.order is not None:
            self._erasing = Erasing(spec, seed=order.seed, clean=clean, device=device)
        images: type[Images] = BetonImages if isinstance(data, BetonFile) else FolderImages
        self._images = images(data, spec, seed=order.seed, clean=clean)
        self._batches: ThreadBatches | ProcessBatches
        if isinstance(self._images, BetonImages) and (self.order is None or not spec.changes_pixels):
            self._batches = ThreadBatches(self._images, workers=workers, pin=self._pin)
        else:
            self._batches = ProcessBatches(self._images, workers=workers, pin=self._pin)
        nothing: Any = ()  # each epoch gives it its batches
        self._on_device = PrefetchLoader(nothing, mean=spec.mean, std=spec.std, device=device, img_dtype=dtype)
        self._normal = self._on_device.mean.flatten(), self._on_device.std.flatten()

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return len(self._order)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Makes the next ``iter()`` give this epoch from `start_step` on. Without a call, epochs follow 0, 1, ..."""
        self._next = (epoch, start_step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not len(self):
            return
        epoch, start = self._next
        drawn = self._order.batches(epoch, start)  # once more, as the prefetcher hands on nothing but tensors
        on_device: Any = self._on_device
        # timm's code normalises rows [n, H, W * 3] four times as fast as pixels whose channels come last (on a CPU).
        size = self._images.spec.size(epoch)
        on_device.mean, on_device.std = (values.repeat(size) for values in self._normal)
        # When the epoch is left early, closing ends the threads or empties the workers' queues.
        with closing(self.host_batches()) as host, closing(iter(on_device)) as batches:
            on_device.loader = ((input.permute(0, 2, 3, 1).flatten(2), target) for input, target in host)
            for rows, target in batches:
                input = rows.unflatten(2, (size, 3)).permute(0, 3, 1, 2)
                if self.mix is not None:
                    input, target = self.mix(input, target)
                if self._erasing is not None:
                    self._erasing(input, epoch, next(drawn))
                yield input, target

    def host_batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """``(uint8 [n, 3, H, W], target [n])`` in host memory, before normalisation."""
        epoch, start = self._next
        self._next = (epoch + 1, 0)
        if self.order is None:
            self.skipped = {}
        with closing(self._batches.fetch(self._order.batches(epoch, start), epoch)) as fetched:
            for batch, (pixels, broken) in fetched:
                indices = batch.indices
                if broken:
                    pixels, indices = self._without(pixels, broken, batch, epoch)
                    if not len(indices):
                        continue
                target = torch.from_numpy(self.data.targets[indices])
                yield pixels.permute(0, 3, 1, 2), target.pin_memory() if self._pin else target

    def fits(self, num_classes: int) -> bool:
        """Whether a network with `num_classes` classes fits the data: exactly if the data names its classes."""
        return self.num_classes == num_classes if self.classes else self.num_classes <= num_classes

    def picture(self, index: int) -> NDArray[np.uint8]:
        """A sample as a network sees it before normalisation: uint8 ``[H, W, 3]``."""
        pixels, reason = self._images.one(index, 0, 0, 0)
        if reason:
            raise SkdError(f"{self.data.name_of(index)} can't be decoded: {reason}")
        picture: NDArray[np.uint8] = pixels.numpy()
        return picture

    def _without(self, pixels: Tensor, broken: dict[int, str], batch: Batch, epoch: int) -> tuple[Tensor, Indices]:
        """Raises for a broken image, leaves it out (evaluation) or puts another of its class there (training)."""
        for row, reason in broken.items():
            index = int(batch.indices[row])
            if not self._skip_broken:
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
        position, segment = int(batch.positions[row % anchors]), row // anchors
        index = int(batch.indices[row])
        same = self.order.by_class[self.order.targets[self.order.by_class] == self.order.targets[index]]
        place = int(np.flatnonzero(same == index)[0])
        for candidate in np.roll(same, -place - 1)[:-1]:
            if int(candidate) not in self.skipped:
                pixels, reason = self._images.one(int(candidate), epoch, position, segment)
                if not reason:
                    return pixels
                self.skipped[int(candidate)] = reason
        raise SkdError(f"{self.data.name_of(index)} can't be decoded, nor can any other image of its class")


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
    couples: bool = False,
    repeats: int = 1,
    batch_size: int = 256,
    train: bool = True,
    augmentation: Augmentation | None = None,
    image_size: int | None = None,
    seed: int = 0,
    division: Division = UNDIVIDED,
    workers: int = 4,
    skip_broken: bool = False,
    device: torch.device | str = "cpu",
) -> Loader:
    """Batches of ``(input [S * B, 3, H, W], target [S * B])`` from a `.beton` file or an image folder.

    Training takes random crops and flips, and every anchor once an epoch (but see `repeats`). The same seed gives the
    same order and pixels for any number of workers and processes (see `TrainingOrder`). Evaluation takes centre crops,
    in order; each process gets its own share of the samples.

    Args:
        segments: what a training batch consists of, see `Method.segments`.
        couples: see `TrainingOrder`; `repeats` likewise. Training only.
        batch_size: training: anchors a step over all processes and micro-batches; evaluation: images a batch.
        augmentation: crop, flip, further changes, and normalisation; ImageNet's by default.
        image_size: overrides the augmentation's (not its `sizes`).
        seed: of order, pairs and augmentation.
        workers: decoding threads (`.beton`) or processes (folder, or if the augmentation changes pixels as
            ``auto_augment`` does; 0 decodes in this process).
        skip_broken: leave undecodable images out and count them, instead of an error that names the image.
    """
    spec = augmentation or Augmentation()
    if image_size is not None:
        spec = replace(spec, image_size=image_size)
    if batch_size < 1:
        raise SkdError(f"batch_size should be at least 1, got {batch_size}")
    if workers < 0:
        raise SkdError(f"workers should be at least 0, got {workers}")
    data = open_data(path)
    order: Order
    if train:
        order = TrainingOrder(
            data.targets, segments=segments, batch_size=batch_size, seed=seed, couples=couples, division=division,
            repeats=repeats,
        )  # fmt: skip
    else:
        spec = replace(spec, sizes=())
        shards = np.array_split(np.arange(len(data)), division.world)
        order = EvaluationOrder(shards[division.rank], batch_size)
    return Loader(data, spec, order, workers=workers, skip_broken=skip_broken, device=torch.device(device))
