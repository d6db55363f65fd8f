"""MIT Indoor Scenes (Quattoni and Torralba 2009), with its official split: 80 and 20 images a class."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset
from .files import listed_files, read_lines

FOLDER = "MIT67"


def read(root: Path, train: bool, part: str) -> Source:
    """The images of ``TrainImages.txt`` or ``TestImages.txt``, in that order; labels by the sorted class names.

    Raises:
        SkdError: a list or an image is missing, or a class is in one list only.
    """
    folder = root / FOLDER
    halves = {name: read_lines(folder / name) for name in ("TrainImages.txt", "TestImages.txt")}
    names = {name: {line.rpartition("/")[0] for line in lines} for name, lines in halves.items()}
    if only := names["TrainImages.txt"] ^ names["TestImages.txt"]:
        raise SkdError(f"{folder}: class {min(only)!r} is in only one of TrainImages.txt and TestImages.txt")
    classes = sorted(names["TrainImages.txt"])
    lines = halves["TrainImages.txt" if train else "TestImages.txt"]
    paths = [folder / "Images" / line for line in lines]
    targets = [classes.index(line.rpartition("/")[0]) for line in lines]
    return listed_files(f"MIT67 {'training' if train else 'test'} set", classes, paths, targets)


DATASET = Dataset(
    name="mit67",
    title="MIT Indoor Scenes (MIT67)",
    classes=67,
    train=5360,
    val=1340,
    homepage="https://web.mit.edu/torralba/www/indoor.html",
    licence="research",
    layout=f"{FOLDER}/ (Images/, TrainImages.txt, TestImages.txt)",
    read=read,
    archives=(
        Archive(
            url="http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
            contents=f"{FOLDER}/Images",
            into=FOLDER,
        ),
        *(
            Archive(url=f"https://web.mit.edu/torralba/www/{name}", contents=f"{FOLDER}/{name}", into=FOLDER)
            for name in ("TrainImages.txt", "TestImages.txt")
        ),
    ),
)
