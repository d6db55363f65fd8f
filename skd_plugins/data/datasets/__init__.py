"""The papers' data sets: what each is, what has to be there, how it is read, and how large it has to be."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import SkdError, unknown
from ..sources import Source, image_folder, split_folder
from . import cifar100, cifar100c, cub200, digits, dogs, dtd, imagenet, mit67, mixed, odin, svhn, tinyimagenet
from .dataset import Archive, Dataset

__all__ = ["DIGITS_PER_CLASS", "KNOWN", "Archive", "Dataset", "find_dataset", "list_datasets", "open_source"]

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


def open_source(name: str, train: bool, *, root: Path | None = None) -> Source:
    """The training or validation half of a source.

    Args:
        name: a set of the catalog (see ``skd list datasets``), with a part after a slash if it has parts
            (``cifar100c/fog/3``); or a folder with ``train`` and ``val`` (or ``validation``) inside.
        train: which half.
        root: where the set's files are; CIFAR-100 is downloaded to it if it is not there.

    Raises:
        SkdError: the name is neither, the root is missing, or the files are not what they should be.
    """
    names = [dataset.name for dataset in list_datasets()]
    key, _, part = name.partition("/")
    if name in names or (key in names and find_dataset(key).parts):
        return find_dataset(key).open(train, root, part)
    if not Path(name).is_dir():
        raise SkdError(f"{name!r} is neither an image folder nor one of: {', '.join(names)}")
    return image_folder(split_folder(Path(name), train))


DIGITS_PER_CLASS = 20
# name: training images, validation images, classes; the digits as they are embedded
KNOWN = {data.name: (data.train, data.val, data.classes) for data in list_datasets() if data.train}
KNOWN["digits"] = (10 * DIGITS_PER_CLASS, *KNOWN["digits"][1:])
