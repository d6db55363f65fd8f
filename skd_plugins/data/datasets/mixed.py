"""CS-KD's mixed data set: birds, dogs and rooms in one, with the three as a hierarchy above the 387 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..sources import Image, Source
from . import cub200, dogs, mit67
from .dataset import Dataset

PARTS = {"bird": cub200.DATASET, "dog": dogs.DATASET, "indoor": mit67.DATASET}
PER_CLASS, SEED = 30, 0


def read(root: Path, train: bool, part: str) -> Source:
    """CUB-200-2011, Stanford Dogs and MIT67 one after the other, as one source with a `hierarchy`.

    Source: Yun et al. 2020, section 3.3 and Figure 4: 387 fine labels, 30 randomly chosen training images a label, the
        original test sets. The authors' choice is not published; ours is seed 0.
    Deviation: CUB-200-2011 has 29 training images of some classes; all of them are taken then.

    Raises:
        SkdError: one of the three can't be read.
    """
    sources = {group: dataset.open(train, root) for group, dataset in PARTS.items()}
    if train:
        sources = {group: source.subset(PER_CLASS, SEED, fewer=True) for group, source in sources.items()}
    description = f"CS-KD's mixed {'training' if train else 'test'} set"
    return joined(description, sources)


def joined(description: str, sources: dict[str, Source]) -> Source:
    """Sources one after the other, their classes too, each prefixed by its group: ``bird 001.Laysan_Albatross``."""
    parts = list(sources.values())
    ends = np.cumsum([len(source.targets) for source in parts])
    shifts = np.cumsum([0, *(len(source.classes) for source in parts)])

    def locate(index: int) -> tuple[Source, int]:
        which = int(np.searchsorted(ends, index, side="right"))
        return parts[which], index - (int(ends[which - 1]) if which else 0)

    def load(index: int) -> Image:
        source, own = locate(index)
        return source.load(own)

    def name_of(index: int) -> str:
        source, own = locate(index)
        return source.name_of(own)

    return Source(
        description=description,
        classes=[f"{group} {name}" for group, source in sources.items() for name in source.classes],
        targets=np.concatenate([source.targets + shift for source, shift in zip(parts, shifts[:-1], strict=True)]),
        load=load,
        name_of=name_of,
        hierarchy=[group for group, source in sources.items() for _ in source.classes],
    )


DATASET = Dataset(
    name="mixed",
    title="CS-KD's mix of CUB-200-2011, Stanford Dogs and MIT67",
    classes=sum(dataset.classes for dataset in PARTS.values()),
    # All of CUB-200-2011's training images, since no class of it has more than 30.
    train=cub200.DATASET.train + PER_CLASS * (dogs.DATASET.classes + mit67.DATASET.classes),
    val=sum(dataset.val for dataset in PARTS.values()),
    homepage="https://arxiv.org/abs/2003.13964 (section 3.3)",
    licence="those of the three",
    layout=f"{cub200.FOLDER}/, {dogs.FOLDER}/ and {mit67.FOLDER}/",
    read=read,
    archives=tuple(archive for dataset in PARTS.values() for archive in dataset.archives),
)
