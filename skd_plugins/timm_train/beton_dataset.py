"""`.beton` files as data for timm's train.py."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from timm.data.distributed_sampler import OrderedDistributedSampler
from timm.data.mixup import FastCollateMixup, Mixup
from torch import Tensor

from ..common.errors import SkdError
from ..data.augment import Augmentation
from ..data.beton.file import BetonFile
from ..data.loader import Loader
from ..data.mixup import mix_segments
from ..data.order import EvaluationOrder, Order
from .pairs import processes, refuse, training_order

_logger = logging.getLogger(__name__)
_TRAIN, _EVAL = ("train", "training"), ("val", "valid", "validation", "eval", "evaluation", "test")


def find_beton(root: str | Path, split: str) -> Path | None:
    """The `.beton` file that ``--data-dir`` and a split mean; None if timm has to find the data.

    A file is the training data, and ``val.beton`` beside it the validation data; in a folder they are
    ``SPLIT.beton``, with timm's synonyms (``val``, ``validation``, ...).
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
    """train.py's data set if the data is a `.beton` file."""

    def __init__(self, path: Path, seed: int) -> None:
        self.data, self.seed = BetonFile(path), seed

    def __len__(self) -> int:
        return len(self.data)

    @property
    def transform(self) -> NoReturn:
        """What ``--aug-splits`` would wrap."""
        raise SkdError("--aug-splits can't be used with training from .beton files; leave it out")

    def loader(self, options: dict[str, Any], *, segments: Sequence[str], couples: bool) -> "BetonLoader":
        """The loader for a call of timm's ``create_loader`` with the arguments `options`.

        With several processes, validation shards are padded to equal length (timm's `OrderedDistributedSampler`),
        because train.py averages over batches. ``skd evaluate`` counts every sample once.
        """
        training, spec = bool(options["is_training"]), self._augmentation(options)
        mixup = self._mixup(options) if training else None
        rank, world = processes(options)
        shard = OrderedDistributedSampler(self, num_replicas=world, rank=rank)
        order: Order = EvaluationOrder(np.fromiter(shard, np.int64), options["batch_size"])
        if training:
            order = training_order(self.data.targets, options, segments=segments, couples=couples, seed=self.seed)
        loader = Loader(
            self.data, replace(spec, mean=tuple(options["mean"]), std=tuple(options["std"])), order,
            workers=options["num_workers"], skip_broken=False, device=torch.device(options["device"]),
            dtype=torch.float16 if options["fp16"] else options["img_dtype"] or torch.float32,
        )  # fmt: skip
        return BetonLoader(self, loader, None if training else shard, mixup)

    def _augmentation(self, options: Mapping[str, Any]) -> Augmentation:
        channels, height, width = options["input_size"]
        if channels != 3 or height != width:
            raise SkdError(f".beton files give square RGB images, not {channels} x {height} x {width}")
        if not options["is_training"]:
            if options["crop_mode"] not in (None, "center") or options["crop_border_pixels"]:
                raise SkdError("from .beton files, evaluation crops the centre; crop_mode is not available")
            return Augmentation(image_size=height, crop_pct=options["crop_pct"] or Augmentation.crop_pct)
        refuse(
            options,
            "training from .beton files",
            {
                "no_aug": "--no-aug", "color_jitter_prob": "--color-jitter-prob",
                "gaussian_blur_prob": "--gaussian-blur-prob", "re_split": "--resplit",
                "input_size_choices": "--train-img-sizes",
            },
        )  # fmt: skip
        if options["train_crop_mode"] not in (None, "rrc"):
            raise SkdError(f"from .beton files, --train-crop-mode is rrc, not {options['train_crop_mode']}")
        if not processes(options)[0]:
            _logger.warning("%s: images are resized with an area filter, not --train-interpolation", self.data.path)
        policy = options["auto_augment"] or None
        # As timm does: its default of --color-jitter is 0.4, and most policies change the colours themselves.
        jitter = 0.0 if policy and "3a" not in policy else options["color_jitter"] or 0.0
        return Augmentation(
            image_size=height, scale=tuple(options["scale"] or Augmentation.scale),
            ratio=tuple(options["ratio"] or Augmentation.ratio), hflip=options["hflip"], vflip=options["vflip"],
            auto_augment=policy, color_jitter=jitter, grayscale=options["grayscale_prob"] or 0.0,
            interpolation=options["interpolation"], random_erasing=options["re_prob"],
            erasing_mode=options["re_mode"], erasing_count=options["re_count"],
        )  # fmt: skip

    @staticmethod
    def _mixup(options: Mapping[str, Any]) -> Mixup | None:
        collate: FastCollateMixup | None = options["collate_fn"]  # here it mixes tensors instead of lists of images
        if collate is not None and "half" in collate.mode:
            raise SkdError("--mixup-mode half is not available for .beton files; use batch, pair or elem")
        return collate


class BetonLoader:
    """A `Loader` with the interface of timm's loaders. `shard` is this process's part of a validation set."""

    def __init__(
        self, dataset: BetonDataset, loader: Loader, shard: OrderedDistributedSampler | None, mixup: Mixup | None
    ) -> None:
        self.dataset, self.loader, self.mixup = dataset, loader, mixup
        self.mixup_enabled = mixup is not None  # train.py switches it off with --mixup-off-epoch
        # Training: has set_epoch. Validation: has num_valid_samples (timm 1.0.31), by which the padding is not counted.
        self.sampler = self.batch_sampler = shard or loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.mixup is not None:
            self.mixup.mixup_enabled = self.mixup_enabled
            self.loader.mix = partial(mix_segments, self.mixup, segments=len(self.loader.segments))
        with closing(iter(self.loader)) as batches:  # type: ignore[type-var]  # it is a generator
            for input, target in batches:
                # Ours are channels last; train.py decides that with --channels-last, and DDP warns when it differs.
                yield input.contiguous(), target
