"""Orders for FFCV's own Loader, whose batches then have pairs: for those who keep their FFCV pipeline."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from ffcv.traversal_order.base import TraversalOrder

from ...common.errors import SkdError
from ..order import Division, Indices, TrainingOrder
from ..samplers import whole_batches
from .file import BetonFile


class PairOrder(TraversalOrder):  # type: ignore[misc]  # FFCV has no types
    """``Loader(path, 2 * B, order=PairOrder(), seed=0, ...)`` gives batches ``[B anchors | B pairs]``.

    Each pair is of its anchor's class, drawn as by `PairBatchSampler`. The loader's ``batch_size``, ``seed``,
    ``indices`` and ``distributed`` are used, and all batches are whole. For FFCV 1.0.2 and its repository of 2026.

    Args:
        segments: what a batch consists of, ``task.method.segments``; ``view`` is the anchor once more.
    """

    couples = False
    order: TrainingOrder

    def __init__(self, segments: Sequence[str] = ("anchor", "pair")) -> None:
        self.segments = tuple(segments)

    def __call__(self, loader: Any) -> PairOrder:
        """The order of that loader. FFCV wants an instance, and calls it as if it were the class."""
        bound = copy.copy(self)
        TraversalOrder.__init__(bound, loader)
        rank, world = (dist.get_rank(), dist.get_world_size()) if loader.distributed else (0, 1)
        size, rest = divmod(loader.batch_size, len(self.segments))
        if rest:
            raise SkdError(f"batch_size={loader.batch_size} does not divide into {' | '.join(self.segments)}")
        seeds = [loader.seed] * world
        if world > 1:
            dist.all_gather_object(seeds, loader.seed)
        if len(set(seeds)) > 1:  # FFCV draws one if there is none
            raise SkdError("the processes' loaders have different seeds; give each Loader the same seed=")
        bound.order = whole_batches(
            BetonFile(Path(loader.fname)).targets[loader.indices.astype(np.int64)], size, seed=loader.seed,
            division=Division(rank=rank, world=world), segments=self.segments, couples=self.couples,
        )  # fmt: skip
        return bound

    def sample_order(self, epoch: int) -> Indices:
        """This process's samples of an epoch, batch after batch."""
        samples = np.concatenate([batch.indices for batch in self.order.batches(epoch)])
        chosen: Indices = self.indices[samples]
        return chosen


class CoupleOrder(PairOrder):
    """Batches in which every class appears at least twice, for ``cs_kd`` with ``pairing="batch"``; see `PairOrder`."""

    couples = True

    def __init__(self) -> None:
        super().__init__(("anchor",))
