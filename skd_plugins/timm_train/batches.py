"""Which samples are in a batch of timm's train.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from timm.data.mixup import FastCollateMixup

from ..common.errors import SkdError
from ..data.order import UNDIVIDED, Division, TrainingOrder


def whole_batches(
    targets: NDArray[np.int64], *, batch_size: int, division: Division = UNDIVIDED, **others: Any
) -> TrainingOrder:
    """An order of whole batches, like timm's training loaders (``drop_last=True``).

    Each epoch leaves out the images that do not fill a batch. (With `couples`, the only image of a class comes last
    in every shuffle, so it may never be used.)

    Args:
        targets: each sample's class ``[N]``.
        batch_size: anchors per process, as timm counts.
    """
    anchors = batch_size * division.world
    if len(targets) < anchors:
        raise SkdError(
            f"{len(targets)} training images are less than one batch of {batch_size} on {division.world} process(es); "
            "timm's train.py leaves out incomplete batches, so choose a smaller --batch-size"
        )
    return TrainingOrder(targets, batch_size=anchors, division=division, drop_last=True, **others)


def training_order(
    targets: NDArray[np.int64], options: Mapping[str, Any], *, segments: Sequence[str], couples: bool, seed: int
) -> TrainingOrder:
    """The order for a call of timm's ``create_loader`` with the arguments `options`."""
    rank, world = processes(options)
    division = Division(rank=rank, world=world, even=isinstance(options["collate_fn"], FastCollateMixup))
    kind = {"segments": segments, "couples": couples, "seed": seed}
    return whole_batches(targets, batch_size=options["batch_size"], division=division, **kind)


def processes(options: Mapping[str, Any]) -> tuple[int, int]:
    """This process's rank, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if options["distributed"] else (0, 1)


def refuse(options: Mapping[str, Any], what: str, flags: Mapping[str, str]) -> None:
    """Raises SkdError if one of the options is set; `flags` maps them to their names on train.py's command line."""
    for option, flag in flags.items():
        if options.get(option):
            raise SkdError(f"{flag} can't be used with {what}; leave it out")
