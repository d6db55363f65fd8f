"""The catalog of the papers' data sets: archives, layouts, readers and official sizes."""

from pathlib import Path

from ...common.errors import SkdError, unknown
from ..sources import Source, image_folder, split_folder
from . import cifar100, cifar100c, cub200, digits, dogs, glyphs, imagenet, mit67, mixed, outliers, tinyimagenet
from .dataset import Archive as Archive
from .dataset import Dataset as Dataset

_DATASETS = {
    dataset.name: dataset
    for dataset in (
        digits.DATASET,
        glyphs.DATASET,
        glyphs.GLYPHS30,
        glyphs.GLYPHS82,
        glyphs.TEST,
        glyphs.OTHER,
        cifar100.DATASET,
        tinyimagenet.DATASET,
        cub200.DATASET,
        dogs.DATASET,
        dogs.CROPPED,
        mit67.DATASET,
        mixed.DATASET,
        imagenet.DATASET,
        cifar100c.DATASET,
        outliers.LSUN_CROP,
        outliers.LSUN_RESIZE,
        outliers.ISUN,
        outliers.DTD,
        outliers.SVHN,
    )
}
DIGITS_PER_CLASS = 20  # of the 100 training images, in the embedded copy
# name: training images, validation images and classes that plans assume
KNOWN = {data.name: (data.train, data.val, data.classes) for data in _DATASETS.values() if data.train}
KNOWN["digits"] = (10 * DIGITS_PER_CLASS, *KNOWN["digits"][1:])
EMBEDDED = [name for name, data in _DATASETS.items() if not data.archives]  # they come with this package or a library


def list_datasets() -> list[Dataset]:
    """Every data set of the catalog, training sets first."""
    return list(_DATASETS.values())


def find_dataset(name: str) -> Dataset:
    """The data set of that name."""
    if name not in _DATASETS:
        raise unknown("dataset", name, _DATASETS)
    return _DATASETS[name]


def open_source(name: str, train: bool, *, root: Path | None = None) -> Source:
    """The training or validation half of a data set or an image folder.

    Args:
        name: a data set of the catalog, with its part if it has parts (``cifar100c/fog/3``), or a folder with ``train``
            and ``val`` (or ``validation``) inside.
        root: the folder with the data set's files; CIFAR-100 is downloaded to it if it is missing.
    """
    key, _, part = name.partition("/")
    dataset = _DATASETS.get(key)
    if dataset and (name == key or dataset.parts):
        return dataset.open(train, root, part)
    if not Path(name).is_dir():
        raise SkdError(f"{name!r} is neither an image folder nor one of: {', '.join(_DATASETS)}")
    return image_folder(split_folder(Path(name), train))
