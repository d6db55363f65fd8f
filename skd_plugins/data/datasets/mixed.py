"""CS-KD's mixed data set: birds, dogs and rooms in one, as a hierarchy of three groups above 387 classes."""

from pathlib import Path

import numpy as np

from ..sources import Source
from . import cub200, dogs, mit67
from .dataset import Dataset

PARTS = {"bird": cub200.DATASET, "dog": dogs.DATASET, "indoor": mit67.DATASET}
PER_CLASS, SEED = 30, 0


def read(root: Path, train: bool, part: str) -> Source:
    """CUB-200-2011, Stanford Dogs and MIT67 one after another; a class is called ``bird 001.Laysan_Albatross``.

    Source: Yun et al. 2020, section 3.3 and Figure 4: 387 fine labels, 30 randomly chosen training images a label, the
        original test sets. The authors' choice is not published; ours is seed 0.
    Deviation: some classes of CUB-200-2011 have only 29 training images; all of those are used.
    """
    sources = {group: dataset.open(train, root) for group, dataset in PARTS.items()}
    if train:
        sources = {group: source.subset(PER_CLASS, SEED, fewer=True) for group, source in sources.items()}
    parts = list(sources.values())
    places = [(source, index) for source in parts for index in range(len(source.targets))]
    shifts = np.cumsum([0, *(len(source.classes) for source in parts)])
    return Source(
        description=f"CS-KD's mixed {'training' if train else 'test'} set",
        classes=[f"{group} {name}" for group, source in sources.items() for name in source.classes],
        targets=np.concatenate([source.targets + shift for source, shift in zip(parts, shifts[:-1], strict=True)]),
        load=lambda index: places[index][0].load(places[index][1]),
        name_of=lambda index: places[index][0].name_of(places[index][1]),
        hierarchy=[group for group, source in sources.items() for _ in source.classes],
    )


DATASET = Dataset(
    name="mixed",
    title="CS-KD's mix of CUB-200-2011, Stanford Dogs and MIT67",
    classes=sum(dataset.classes for dataset in PARTS.values()),
    # No class of CUB-200-2011 has more than 30 training images, so all of them are used.
    train=cub200.DATASET.train + PER_CLASS * (dogs.DATASET.classes + mit67.DATASET.classes),
    val=sum(dataset.val for dataset in PARTS.values()),
    homepage="https://arxiv.org/abs/2003.13964 (section 3.3)",
    licence="those of the three",
    layout=f"{cub200.FOLDER}/, {dogs.FOLDER}/ and {mit67.FOLDER}/",
    read=read,
    archives=tuple(archive for dataset in PARTS.values() for archive in dataset.archives),
)
