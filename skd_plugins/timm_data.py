"""Batches for timm's train.py: paired ones from timm's own loaders, and any kind from `.beton` files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from timm.data.distributed_sampler import OrderedDistributedSampler
from timm.data.loader import PrefetchLoader
from timm.data.mixup import FastCollateMixup, Mixup
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

from .data.augment import Augmentation
from .data.beton import BetonFile
from .data.loader import Loader
from .data.mixing import mix_segments
from .data.order import TrainingOrder
from .errors import SkdError

_logger = logging.getLogger(__name__)
_TRAIN, _EVAL = ("train", "training"), ("val", "valid", "validation", "eval", "evaluation", "test")
_TIMM_COLOR_JITTER = 0.4  # train.py's default, there whether or not the user asked for it
Part = TypeVar("Part")
Result = TypeVar("Result")


class WholeBatches(TrainingOrder):
    """A `TrainingOrder` that counts as timm's training loaders do: whole batches only (``drop_last=True``).

    The images that do not fill a batch are left out of the epoch; the next epoch's shuffle leaves out others. (With
    `couples` an image that is alone in its class comes last in every shuffle, so it may never be seen.)

    Args:
        targets: each sample's class ``[N]``.
        batch_size: anchors a process, as timm counts.
        world: number of processes.
        others: see `TrainingOrder`.

    Raises:
        SkdError: there is not one whole batch.
    """

    def __init__(self, targets: NDArray[np.int64], *, batch_size: int, world: int, **others: Any) -> None:
        if len(targets) < batch_size * world:
            raise SkdError(
                f"{len(targets)} training images are less than one batch of {batch_size} on {world} process(es); "
                "timm's train.py leaves out incomplete batches, so choose a smaller --batch-size"
            )
        super().__init__(targets, batch_size=batch_size * world, world=world, drop_last=True, **others)


def training_order(
    targets: NDArray[np.int64], options: Mapping[str, Any], *, segments: Sequence[str], couples: bool, seed: int
) -> WholeBatches:
    """The order for a call of timm's ``create_loader``.

    Args:
        targets: each sample's class ``[N]``.
        options: the call's arguments.
        segments: the method's.
        couples: the method's.
        seed: train.py's ``--seed``.
    """
    rank, world = processes(options)
    return WholeBatches(
        targets, segments=segments, batch_size=options["batch_size"], seed=seed, couples=couples,
        even=isinstance(options["collate_fn"], FastCollateMixup), rank=rank, world=world,
    )  # fmt: skip


def processes(options: Mapping[str, Any]) -> tuple[int, int]:
    """This process's rank and their number, as train.py tells ``create_loader``."""
    return (dist.get_rank(), dist.get_world_size()) if options["distributed"] else (0, 1)


# ---- pairs from timm's own loaders -----------------------------------------------------------------------------------


def paired_order(options: Mapping[str, Any], *, segments: Sequence[str], couples: bool, seed: int) -> WholeBatches:
    """The order for a call of timm's ``create_loader`` with a data set of timm's.

    Args:
        options: the call's arguments.
        segments: the method's.
        couples: the method's.
        seed: train.py's ``--seed``.

    Raises:
        SkdError: an option that contradicts such batches, or data without a list of labels.
    """
    _refuse(
        options,
        f"batches with {'two images of each class' if couples else 'the segments ' + ' | '.join(segments)}",
        {
            "num_aug_splits": "--aug-splits", "num_aug_repeats": "--aug-repeats", "re_split": "--resplit",
            "input_size_choices": "--train-img-sizes", "use_multi_epochs_loader": "--use-multi-epochs-loader",
        },
    )  # fmt: skip
    if "clean" in segments:
        raise SkdError("a 'clean' segment needs two transforms, which timm's loader has not; train from .beton files")
    return training_order(labels_of(options["dataset"]), options, segments=segments, couples=couples, seed=seed)


def paired_loader(create_loader: Callable[..., Any], options: Mapping[str, Any], order: TrainingOrder) -> Any:
    """timm's training loader with batches of an order's segments, ``[B anchors | B pairs]``.

    Data set, transform, collation, workers and prefetcher stay timm's; only which samples make a batch is ours.
    Augmentation draws from the workers' generators as ever in timm, so an anchor that is its own pair gets two
    different crops.

    Args:
        create_loader: timm's.
        options: its arguments.
        order: see `paired_order`.
    """
    timms = create_loader(**options)
    inner: DataLoader[Any] = timms.loader if isinstance(timms, PrefetchLoader) else timms
    sampler, collate = PairedSampler(order), inner.collate_fn
    if isinstance(collate, FastCollateMixup) and len(order.segments) > 1:
        collate = PairedCollateMixup(collate, len(order.segments))
    rebuilt = DataLoader(
        inner.dataset, batch_sampler=sampler, num_workers=inner.num_workers, collate_fn=collate,
        pin_memory=inner.pin_memory, worker_init_fn=inner.worker_init_fn, persistent_workers=inner.persistent_workers,
    )  # fmt: skip
    # train.py of timm 1.0.27 and 1.0.28 tells one process's epochs to the data set only.
    options["dataset"].set_epoch = sampler.set_epoch
    if not isinstance(timms, PrefetchLoader):
        return rebuilt
    timms.loader = rebuilt
    return timms


class PairedSampler(Sampler[list[int]]):
    """A batch sampler that follows a `TrainingOrder`.

    Args:
        order: the order.
    """

    def __init__(self, order: TrainingOrder) -> None:
        self.order = order
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """What the next ``iter()`` gives. Without this, epochs follow 0, 1, ..."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for batch in self.order.batches(epoch):
            yield batch.indices.tolist()


class PairedCollateMixup(FastCollateMixup):
    """timm's mixup while collating, with the same permutation and coefficient for every segment.

    Args:
        mixup: whose settings to use.
        segments: number of segments.
    """

    def __init__(self, mixup: FastCollateMixup, segments: int) -> None:
        self.__dict__.update(vars(mixup))
        self.segments = segments

    def __call__(self, batch: list[Any], _: Any = None) -> tuple[Tensor, Tensor]:
        """Collates ``S * B`` samples to input ``[S * B, 3, H, W]`` uint8 and target ``[S * B, C]``."""
        size = len(batch) // self.segments
        parts = [batch[first : first + size] for first in range(0, len(batch), size)]
        return _joined(_from_same_state(super().__call__, parts))


class PairedMixup(Mixup):
    """timm's mixup on the device (``--no-prefetcher``), with the same permutation and coefficient for every segment.

    Args:
        segments: number of segments.
        settings: see timm's `Mixup`.
    """

    def __init__(self, segments: int, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]  # timm's are not typed
        self.segments = segments

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes input ``[S * B, 3, H, W]`` and target ``[S * B]``."""
        if len(x) % (2 * self.segments):
            raise SkdError(f"mixup needs an even --batch-size, got {len(x) // self.segments}")
        parts = list(zip(x.chunk(self.segments), target.chunk(self.segments), strict=True))
        mix: Callable[..., tuple[Tensor, Tensor]] = super().__call__
        return _joined(_from_same_state(lambda part: mix(*part), parts))


def _from_same_state(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Applies `function` to each part; NumPy's global generator, timm's source for mixup, starts the same each time."""
    state = np.random.get_state()
    results = []
    for part in parts:
        np.random.set_state(state)
        results.append(function(part))
    return results


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([input for input, _ in parts]), torch.cat([target for _, target in parts])


def labels_of(dataset: Any) -> NDArray[np.int64]:
    """The classes ``[N]`` of a data set that timm reads by index, without reading images.

    Raises:
        SkdError: it is a stream, or does not list its labels.
    """
    reader = getattr(dataset, "reader", dataset)
    labels: Any = None
    if isinstance(dataset, IterableDataset):
        raise SkdError("this data set is a stream (wds, tfds, hfids), but pairs of a class need samples by index")
    if hasattr(reader, "targets"):  # timm's tar files, torchvision's data sets
        labels = reader.targets
    elif hasattr(reader, "samples"):  # timm's and torchvision's folders
        labels = [sample[1] for sample in reader.samples]
    elif hasattr(reader, "iter_targets"):  # Hugging Face data sets, since timm 1.0.30
        labels = list(reader.iter_targets())
    if labels is not None and getattr(dataset, "target_transform", None) is not None:
        labels = [dataset.target_transform(label) for label in labels]
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SkdError(f"{type(reader).__name__} does not list one class index a sample, which pairs of a class need")
    return array.astype(np.int64)


# ---- .beton files ----------------------------------------------------------------------------------------------------


def find_beton(root: str | Path, split: str) -> Path | None:
    """The `.beton` file that ``--data-dir`` and a split mean, None if they mean something of timm's.

    A file is the training data, and ``val.beton`` beside it the validation data; in a folder they are
    ``SPLIT.beton``, with timm's synonyms (``val``, ``validation``, ...).

    Raises:
        SkdError: the folder has `.beton` files, but neither one nor a folder of images for the split.
    """
    root = Path(root)
    if root.suffix == ".beton":
        return root if split in _TRAIN else root.with_name("val.beton" if split in _EVAL else f"{split}.beton")
    names = next((group for group in (_TRAIN, _EVAL) if split in group), (split,))
    for name in (split, *names):
        if (root / f"{name}.beton").is_file():
            return root / f"{name}.beton"
    there = sorted(path.name for path in root.glob("*.beton"))
    if there and not any((root / name).is_dir() for name in names):
        raise SkdError(f"{root} has {', '.join(there)}, but neither a file nor a folder for the split {split!r}")
    return None


class BetonDataset:
    """What train.py holds as its data set when the data is a `.beton` file.

    Args:
        path: the file.
        seed: train.py's ``--seed``.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.data, self.seed = BetonFile(path), seed
        self._loader: Loader | None = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def transform(self) -> None:
        """What timm's wrapper for ``--aug-splits`` asks for."""
        raise SkdError("--aug-splits can't be used with .beton files; leave it out")

    def set_epoch(self, epoch: int) -> None:
        """Tells the loader, as train.py of timm 1.0.27 and 1.0.28 expects of a data set."""
        if self._loader is not None:
            self._loader.set_epoch(epoch)

    def loader(self, options: dict[str, Any], *, segments: Sequence[str], couples: bool) -> BetonLoader:
        """The loader for a call of timm's ``create_loader`` with this data set.

        Under several processes the shards of a validation set are padded with its first samples to equal length
        (timm's `OrderedDistributedSampler`), because train.py averages over batches and needs the same number of them
        everywhere; ``skd evaluate`` counts every sample once.

        Args:
            options: the call's arguments.
            segments: the method's.
            couples: the method's.

        Raises:
            SkdError: an option that is not available for `.beton` files.
        """
        training = bool(options["is_training"])
        spec = self._augmentation(options)
        mixup = self._mixup(options) if training else None
        rank, world = processes(options)
        shard = OrderedDistributedSampler(self, num_replicas=world, rank=rank)
        order = None
        if training:
            order = training_order(self.data.targets, options, segments=segments, couples=couples, seed=self.seed)
        self._loader = Loader(
            self.data, spec, order=order, indices=None if training else np.fromiter(shard, np.int64),
            batch_size=options["batch_size"], workers=options["num_workers"], skip_broken=False,
            device=torch.device(options["device"]), mean=options["mean"], std=options["std"],
            dtype=torch.float16 if options["fp16"] else options["img_dtype"] or torch.float32,
        )  # fmt: skip
        return BetonLoader(self, self._loader, None if training else shard, mixup)

    def _augmentation(self, options: Mapping[str, Any]) -> Augmentation:
        channels, height, width = _input_size(options)
        if channels != 3 or height != width:
            raise SkdError(f".beton files give square RGB images, not {channels} x {height} x {width}")
        _refuse(options, "evaluating from .beton files", {"tf_preprocessing": "TensorFlow's preprocessing"})
        if not options["is_training"]:
            if options["crop_mode"] not in (None, "center") or options["crop_border_pixels"]:
                raise SkdError("from .beton files, evaluation crops the centre; crop_mode is not available")
            return Augmentation(image_size=height, crop_pct=options["crop_pct"] or Augmentation.crop_pct)
        jitter = options["color_jitter"]
        _refuse(
            {**options, "color_jitter": jitter if jitter != _TIMM_COLOR_JITTER else None},
            "training from .beton files, where augmentation is a random crop and a horizontal flip",
            {
                "no_aug": "--no-aug", "auto_augment": "--aa", "re_prob": "--reprob", "vflip": "--vflip",
                "color_jitter": "--color-jitter", "color_jitter_prob": "--color-jitter-prob",
                "grayscale_prob": "--grayscale-prob", "gaussian_blur_prob": "--gaussian-blur-prob",
                "num_aug_splits": "--aug-splits", "num_aug_repeats": "--aug-repeats",
                "input_size_choices": "--train-img-sizes",
            },
        )  # fmt: skip
        if options["train_crop_mode"] not in (None, "rrc"):
            raise SkdError(f"from .beton files, --train-crop-mode is rrc, not {options['train_crop_mode']}")
        if jitter and not processes(options)[0]:
            _logger.warning(
                "%s: images are resized with an area filter, and there is no colour jitter (timm's default of %g "
                "applies to image folders only)", self.data.path, jitter,
            )  # fmt: skip
        return Augmentation(
            image_size=height, scale=tuple(options["scale"] or Augmentation.scale),
            ratio=tuple(options["ratio"] or Augmentation.ratio), hflip=options["hflip"],
        )  # fmt: skip

    @staticmethod
    def _mixup(options: Mapping[str, Any]) -> Mixup | None:
        collate = options["collate_fn"]
        if collate is None:
            return None
        if not isinstance(collate, FastCollateMixup):
            raise SkdError(f"from .beton files, batches can't be collated by {type(collate).__name__}")
        if "half" in collate.mode:
            raise SkdError("--mixup-mode half is not available for .beton files; use batch, pair or elem")
        mixup = object.__new__(Mixup)
        mixup.__dict__ = vars(collate)  # the same settings, applied to tensors instead of lists of images
        return mixup


class BetonLoader:
    """A `Loader` with what train.py asks of timm's loaders.

    Args:
        dataset: what it loads.
        loader: what loads it.
        shard: the validation set's part of this process, None for training.
        mixup: applied to every batch on the device, or None.
    """

    def __init__(
        self, dataset: BetonDataset, loader: Loader, shard: OrderedDistributedSampler | None, mixup: Mixup | None
    ) -> None:
        self.dataset, self.loader, self.mixup = dataset, loader, mixup
        # Training: has set_epoch. Validation: has num_valid_samples (timm 1.0.31), by which the padding is not counted.
        self.sampler = self.batch_sampler = shard or loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with closing(iter(self.loader)) as batches:  # type: ignore[type-var]  # it is a generator
            for input, target in batches:
                if self.mixup is not None:
                    input, target = mix_segments(self.mixup, input, target, len(self.loader.segments))
                # Ours are channels last; train.py decides that with --channels-last, and DDP warns when it differs.
                yield input.contiguous(), target

    @property
    def mixup_enabled(self) -> bool:
        """train.py switches it off with ``--mixup-off-epoch``."""
        return self.mixup is not None and bool(self.mixup.mixup_enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        if self.mixup is not None:
            self.mixup.mixup_enabled = value


def _input_size(options: Mapping[str, Any]) -> tuple[int, int, int]:
    size = options["input_size"]
    channels, height, width = size if isinstance(size, Sequence) and len(size) == 3 else (3, *np.broadcast_to(size, 2))
    return int(channels), int(height), int(width)


def _refuse(options: Mapping[str, Any], what: str, flags: Mapping[str, str]) -> None:
    """Raises for the first of the options that is set. Args: flags: option to how train.py's user calls it."""
    for option, flag in flags.items():
        if options.get(option):
            raise SkdError(f"{flag} can't be used with {what}; leave it out")
