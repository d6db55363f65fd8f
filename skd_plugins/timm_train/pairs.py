"""Which samples are in a batch of timm's train.py, and batches with pairs from timm's own loaders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from timm.data.loader import PrefetchLoader
from timm.data.mixup import FastCollateMixup, Mixup
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..common.errors import SkdError
from ..data.mixup import collate_segments, mix_segments
from ..data.order import Division, TrainingOrder
from ..data.samplers import OrderSampler, whole_batches


def training_order(
    targets: NDArray[np.int64], options: Mapping[str, Any], *, segments: Sequence[str], couples: bool, seed: int
) -> TrainingOrder:
    """The order for a call of timm's ``create_loader`` with the arguments `options`."""
    rank, world = processes(options)
    division = Division(rank=rank, world=world, even=isinstance(options["collate_fn"], FastCollateMixup))
    repeats = options["num_aug_repeats"] or 1  # a float from the command line
    if repeats != int(repeats):
        raise SkdError(f"--aug-repeats is a whole number here, not {repeats:g}")
    return whole_batches(
        targets, options["batch_size"], division=division, segments=segments, couples=couples, seed=seed,
        repeats=int(repeats),
    )  # fmt: skip


def processes(options: Mapping[str, Any]) -> tuple[int, int]:
    """This process's rank, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if options["distributed"] else (0, 1)


def refuse(options: Mapping[str, Any], what: str, flags: Mapping[str, str]) -> None:
    """Raises SkdError if one of the options is set; `flags` maps them to their names on train.py's command line."""
    for option, flag in flags.items():
        if options.get(option):
            raise SkdError(f"{flag} can't be used with {what}; leave it out")


def paired_order(options: Mapping[str, Any], *, segments: Sequence[str], couples: bool, seed: int) -> TrainingOrder:
    """The order for a call of timm's ``create_loader`` on one of its data sets."""
    refuse(
        options,
        f"batches with {'two images of each class' if couples else 'the segments ' + ' | '.join(segments)}",
        {
            "num_aug_splits": "--aug-splits", "re_split": "--resplit", "input_size_choices": "--train-img-sizes",
            "use_multi_epochs_loader": "--use-multi-epochs-loader",
        },
    )  # fmt: skip
    if "clean" in segments:
        raise SkdError("a 'clean' segment needs two transforms, but timm's loader has one; train from .beton files")
    return training_order(labels_of(options["dataset"]), options, segments=segments, couples=couples, seed=seed)


def paired_loader(create_loader: Callable[..., Any], options: Mapping[str, Any], order: TrainingOrder) -> Any:
    """timm's training loader with batches of an order's segments, ``[B anchors | B pairs]``.

    Data set, transform, collation, workers and prefetcher stay timm's. Augmentation draws from the workers' generators,
    so an anchor that is its own pair gets two different crops. `options` are the arguments of `create_loader`.
    """
    timms = create_loader(**{**options, "num_aug_repeats": 0})  # the order has them
    inner: DataLoader[Any] = timms.loader if isinstance(timms, PrefetchLoader) else timms
    sampler, collate = OrderSampler(order), inner.collate_fn
    if isinstance(collate, FastCollateMixup) and len(order.segments) > 1:
        collate = PairedCollateMixup(collate, len(order.segments))
    rebuilt = DataLoader(
        inner.dataset, batch_sampler=sampler, num_workers=inner.num_workers, collate_fn=collate,
        pin_memory=inner.pin_memory, worker_init_fn=inner.worker_init_fn, persistent_workers=inner.persistent_workers,
    )  # fmt: skip
    if not isinstance(timms, PrefetchLoader):
        return rebuilt
    timms.loader = rebuilt
    return timms


class PairedCollateMixup(FastCollateMixup):
    """timm's mixup while collating, with the same permutation and coefficient for every segment."""

    def __init__(self, mixup: FastCollateMixup, segments: int) -> None:
        self.__dict__.update(vars(mixup))
        self.segments = segments

    def __call__(self, batch: list[Any], _: Any = None) -> tuple[Tensor, Tensor]:
        """Collates ``S * B`` samples to input ``[S * B, 3, H, W]`` uint8 and target ``[S * B, C]``."""
        return collate_segments(super().__call__, self.segments, batch)


class PairedMixup(Mixup):
    """timm's mixup on the device (``--no-prefetcher``), with the same permutation and coefficient for every segment."""

    def __init__(self, segments: int, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]  # timm's are not typed
        self.segments = segments

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes input ``[S * B, 3, H, W]`` and target ``[S * B]``."""
        return mix_segments(self, x, target, self.segments)


def labels_of(dataset: Any) -> NDArray[np.int64]:
    """The classes ``[N]`` of a data set that timm reads by index, without reading images."""
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
