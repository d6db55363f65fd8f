"""The training images of every iteration: which, in what order, and with which random numbers."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.build import _train_loader_from_config
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from skd_plugins.training.process import seed_step

_IMAGE = 1 << 32  # keeps the seeds of images apart from those of steps, which have the process in this place


class Batches(Sampler[list[tuple[int, int]]]):
    """A process's batches of ``(place, image)``, from iteration `start` on.

    The place counts the images that all processes have drawn. Batches are those of detectron2's loader, grouped by
    aspect ratio in the same way, but they are found before any image is read, so a resumed training skips the earlier
    ones at once.

    Args:
        sampler: one of detectron2's for training: it gives this process every n-th image of an endless order.
        batch_size: images of this process.
        wide: for each image, which of the two groups it belongs to; all alike for no grouping.
    """

    def __init__(self, sampler: Any, batch_size: int, wide: Sequence[bool]) -> None:
        self.sampler, self.batch_size, self.wide = sampler, batch_size, wide
        self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        groups: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        done = 0
        for place, image in zip(itertools.count(comm.get_rank(), comm.get_world_size()), self.sampler, strict=False):
            group = groups[self.wide[image]]
            group.append((place, image))
            if len(group) == self.batch_size:
                if done >= self.start:
                    yield list(group)
                done += 1
                group.clear()


class _Images(Dataset[Any]):
    """Images by ``(place, image)``; the mapper's random numbers depend on seed and place alone."""

    def __init__(self, records: Any, mapper: Callable[[Any], Any], seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, pair: tuple[int, int]) -> Any:
        place, image = pair
        seed_step(self.seed, place, _IMAGE)
        return self.mapper(self.records[image])


class TrainLoader:
    """detectron2's training batches as a function of (``SEED``, iteration), for any number of workers.

    Before every batch it seeds the generators that the step draws from (proposals, dropout), so that a resumed training
    needs no saved states. The batches of another number of processes have the same images, but for those that wait for
    a batch of their aspect ratio. With ``SEED`` -1 the seed is drawn anew.
    """

    def __init__(self, cfg: CfgNode, mapper: Callable[[Any], Any]) -> None:
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        np.random.seed(self.seed)  # where detectron2's samplers take their seed from
        parts = _train_loader_from_config(cfg, mapper=mapper)
        records = parts["dataset"]
        grouped = parts["aspect_ratio_grouping"]
        wide = [record["width"] > record["height"] if grouped else False for record in records]
        self.batches = Batches(parts["sampler"], parts["total_batch_size"] // comm.get_world_size(), wide)
        self.loader = DataLoader(
            _Images(DatasetFromList(records, copy=False), mapper, self.seed),
            batch_sampler=self.batches, num_workers=parts["num_workers"], collate_fn=list,
            worker_init_fn=_outlive_sigterm,
        )  # fmt: skip

    def __iter__(self) -> Iterator[list[Any]]:
        for iteration, batch in enumerate(self.loader, self.batches.start):
            seed_step(self.seed, iteration, comm.get_rank())
            yield batch


def _outlive_sigterm(worker: int) -> None:
    """A scheduler signals workers too, whose death would end the training before its checkpoint."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_for_the_trainer, args=(os.getppid(),), daemon=True).start()


def _end_for_the_trainer(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
