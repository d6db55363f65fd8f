"""The papers' data sets: what each is, what has to be there, how it is read, and how large it has to be."""

from __future__ import annotations

from ...errors import unknown
from . import cifar100, cifar100c, cub200, digits, dogs, dtd, imagenet, mit67, mixed, odin, svhn, tinyimagenet
from .dataset import Archive, Dataset

_DATASETS = {
    dataset.name: dataset
    for dataset in (
        digits.DATASET,
        cifar100.DATASET,
        tinyimagenet.DATASET,
        cub200.DATASET,
        dogs.DATASET,
        dogs.CROPPED,
        mit67.DATASET,
        mixed.DATASET,
        imagenet.DATASET,
        cifar100c.DATASET,
        odin.LSUN_CROP,
        odin.LSUN_RESIZE,
        odin.ISUN,
        dtd.DATASET,
        svhn.DATASET,
    )
}


def list_datasets() -> list[Dataset]:
    """Every data set that has a name here, those to train on first."""
    return list(_DATASETS.values())


def find_dataset(name: str) -> Dataset:
    """The data set of a name.

    Raises:
        SkdError: there is none; the message names the nearest one.
    """
    if name not in _DATASETS:
        raise unknown("dataset", name, _DATASETS)
    return _DATASETS[name]


__all__ = ["Archive", "Dataset", "find_dataset", "list_datasets"]
