"""MIT Indoor Scenes (Quattoni and Torralba 2009), with its official split: 80 and 20 images a class."""

from pathlib import Path

from ..sources import Source, listed_files, read_lines
from .dataset import Archive, Dataset

FOLDER = "MIT67"
TRAIN, TEST = "TrainImages.txt", "TestImages.txt"


def read(root: Path, train: bool, part: str) -> Source:
    """The images of a list in its order; labels by the sorted class names."""
    folder = root / FOLDER
    lines = read_lines(folder / (TRAIN if train else TEST))
    names = [line.rpartition("/")[0] for line in lines]
    classes = sorted(set(names))
    paths = [folder / "Images" / line for line in lines]
    targets = [classes.index(name) for name in names]
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
