"""TinyImageNet (Stanford CS231n), 64 x 64 pixels."""

from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source, listed_files, read_lines
from .dataset import Archive, Dataset

FOLDER = "tiny-imagenet-200"


def read(root: Path, train: bool, part: str) -> Source:
    """Labels in the order of the sorted WordNet ids, as in an image folder; ``wnids.txt`` is not sorted."""
    folder = root / FOLDER
    classes = sorted(read_lines(folder / "wnids.txt"))
    paths, targets = [], []
    if train:
        for label, name in enumerate(classes):
            images = sorted((folder / "train" / name / "images").glob("*.JPEG"))
            if not images:
                raise SkdError(f"{folder / 'train' / name / 'images'} has no .JPEG images; unpack the archive again")
            paths += images
            targets += [label] * len(images)
        return listed_files("TinyImageNet training set", classes, paths, targets)
    for line in read_lines(folder / "val" / "val_annotations.txt"):
        image, name, *_ = line.split("\t")
        paths.append(folder / "val" / "images" / image)
        targets.append(classes.index(name))
    return listed_files("TinyImageNet validation set", classes, paths, targets)


DATASET = Dataset(
    name="tinyimagenet",
    title="TinyImageNet",
    classes=200,
    train=100_000,
    val=10_000,
    homepage="http://cs231n.stanford.edu/",
    licence="ImageNet's terms: non-commercial research and education",
    layout=f"{FOLDER}/ (wnids.txt, train/, val/ with val_annotations.txt)",
    read=read,
    archives=(
        Archive(
            url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            contents=FOLDER,
            md5="90528d7ca1a48142e341f4ef8d21d0de",
            free=True,
        ),
    ),
    exact=True,
)
