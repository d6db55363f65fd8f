"""MIT Indoor Scenes (Quattoni and Torralba 2009), with its official split: 80 and 20 images a class."""

from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset
from .listed import listed_files, read_lines

FOLDER = "MIT67"
TRAIN, TEST = "TrainImages.txt", "TestImages.txt"


def read(root: Path, train: bool, part: str) -> Source:
    """The images of a list in its order; labels by the sorted class names."""
    folder = root / FOLDER
    training, test = (read_lines(folder / name) for name in (TRAIN, TEST))
    names, test_names = ({line.rpartition("/")[0] for line in lines} for lines in (training, test))
    if only := names ^ test_names:
        raise SkdError(f"{folder}: class {min(only)!r} is in only one of {TRAIN} and {TEST}; unpack the archive again")
    classes = sorted(names)
    lines = training if train else test
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
    layout=f"{FOLDER}/ (Images/, {TRAIN}, {TEST})",
    read=read,
    archives=(
        Archive(
            url="http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
            contents=f"{FOLDER}/Images",
            into=FOLDER,
        ),
        *(
            Archive(url=f"https://web.mit.edu/torralba/www/{name}", contents=f"{FOLDER}/{name}", into=FOLDER)
            for name in (TRAIN, TEST)
        ),
    ),
)
