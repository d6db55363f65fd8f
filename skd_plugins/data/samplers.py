"""Batches of pairs for any torch DataLoader: the loader's own orders as batch samplers with a state."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from ..common.errors import SkdError
from .order import UNDIVIDED, Division, TrainingOrder


class OrderSampler(Sampler[list[int]]):
    """A batch sampler that follows a `TrainingOrder`. All batches have one size, as DDP and accelerate want it.

    Each pass is the next epoch, with another order. ``state_dict()`` says how many batches were taken;
    torchdata's StatefulDataLoader saves and restores it. (With workers and a state from the very end of an epoch, it
    leaves out one epoch's order.) A plain DataLoader with workers takes batches ahead, so there count your own steps,
    and resume with ``load_state_dict({"epoch": epoch, "step": step})``. accelerate, Lightning and transformers set the
    epoch themselves; with accelerate resume by ``loader.set_epoch(epoch)`` and ``skip_first_batches(loader, step)``.
    """

    drop_last = True  # accelerate reads it and batch_size

    def __init__(self, order: TrainingOrder) -> None:
        self.order, self.batch_size = order, order.batch_size // order.division.world * len(order.segments)
        self.epoch = self.step = 0  # where the next pass begins
        self._at = (0, 0)

    @property
    def sampler(self) -> "OrderSampler":
        """Where accelerate, on several processes, and Lightning look for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the next epoch; without calls epochs count 0, 1, ..."""
        if epoch != self.epoch:
            self.load_state_dict({"epoch": epoch, "step": 0})

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were taken."""
        return dict(zip(("epoch", "step"), self._at, strict=True))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass is the rest of that epoch, or the next epoch if nothing is left."""
        passed, self.step = divmod(state["step"], self.order.steps)
        self.epoch = state["epoch"] + passed
        self._at = (self.epoch, self.step)

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[list[int]]:
        epoch, step = self.epoch, self.step  # at the first batch: a DataLoader may ask for an iterator twice
        self.epoch, self.step = epoch + 1, 0
        for batch in self.order.batches(epoch, step):
            step += 1
            self._at = (epoch, step)
            yield batch.indices.tolist()


class PairBatchSampler(OrderSampler):
    """``[B anchors | B pairs]`` for ``DataLoader(dataset, batch_sampler=...)``: each pair is of its anchor's class.

    An epoch has every image once as an anchor, except for the last ones that do not fill a batch. Pairs are drawn
    uniformly from the class (the anchor itself may be drawn), as in the authors' code of CS-KD.

    Args:
        targets: each sample's class ``[N]``.
        batch_size: anchors B of a process; a batch has ``len(segments) * B`` images.
        segments: what a batch consists of, ``task.method.segments``; ``view`` is the anchor once more, for another
            augmentation.
        seed: the order is a function of it and the epoch.
        rank: this process, which gets its own part of each step. Leave it out with accelerate, whose ``prepare``
            divides batches itself.
        world: the number of processes.
    """

    def __init__(
        self,
        targets: Sequence[int] | npt.NDArray[np.integer],
        batch_size: int,
        *,
        segments: Sequence[str] = ("anchor", "pair"),
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        division = Division(rank=rank, world=world)
        super().__init__(whole_batches(targets, batch_size, division=division, segments=segments, seed=seed))


class CoupleBatchSampler(OrderSampler):
    """Batches in which every class appears at least twice, for ``cs_kd`` with ``pairing="batch"``.

    An epoch has every image once, except for the last ones that do not fill a batch. The only image of a class has no
    partner. The arguments are those of `PairBatchSampler`; `batch_size` is even.
    """

    def __init__(
        self,
        targets: Sequence[int] | npt.NDArray[np.integer],
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        division = Division(rank=rank, world=world)
        super().__init__(whole_batches(targets, batch_size, division=division, couples=True, seed=seed))


def whole_batches(
    targets: Sequence[int] | npt.NDArray[np.integer],
    batch_size: int,
    *,
    division: Division = UNDIVIDED,
    segments: Sequence[str] = ("anchor",),
    couples: bool = False,
    seed: int = 0,
    repeats: int = 1,
) -> TrainingOrder:
    """An order of whole batches, like timm's training loaders; `batch_size` counts a process's anchors.

    Each epoch leaves out the images that do not fill a batch. (With `couples`, the only image of a class comes last
    in every shuffle, so it may never be used.)
    """
    labels = np.asarray(targets)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise SkdError(f"targets should be one class index a sample, got {labels.dtype} of shape {labels.shape}")
    anchors = batch_size * division.world
    if len(labels) < anchors:
        raise SkdError(
            f"{len(labels)} training images are less than one batch of {batch_size} on {division.world} process(es), "
            "and an incomplete batch is left out; choose a smaller batch size"
        )
    return TrainingOrder(
        labels.astype(np.int64), segments=segments, batch_size=anchors, seed=seed, couples=couples, division=division,
        drop_last=True, repeats=repeats,
    )  # fmt: skip
