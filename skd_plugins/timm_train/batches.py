"""Which samples are in a batch of timm's train.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from timm.data.mixup import FastCollateMixup

from ..common.errors import SkdError
from ..data.order import Division, TrainingOrder
from ..data.samplers import whole_batches


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
