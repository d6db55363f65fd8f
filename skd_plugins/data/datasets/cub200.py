"""CUB-200-2011 (Wah et al. 2011), with its official split."""

from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset
from .listed import listed_files, read_table, whole_number

FOLDER = "CUB_200_2011"


def read(root: Path, train: bool, part: str) -> Source:
    """The images that ``train_test_split.txt`` puts into a half, in the order of their numbers; labels from 0."""
    folder = root / FOLDER
    tables = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
    classes, images, labels, split = (read_table(folder / name) for name in tables)
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise SkdError(f"{folder / 'classes.txt'} does not number the classes from 1; unpack the archive again")
    if not images.keys() == labels.keys() == split.keys():
        raise SkdError(f"{folder}: {', '.join(tables[1:])} list different images; unpack the archive again")
    paths, targets = [], []
    for number in sorted(images):
        target = whole_number(labels[number], 1, len(classes), what=f"{folder}: the label of image {number}") - 1
        if whole_number(split[number], 0, 1, what=f"{folder}: the flag of image {number}") == train:
            paths.append(folder / "images" / images[number])
            targets.append(target)
    names = [classes[number] for number in sorted(classes)]
    return listed_files(f"CUB-200-2011 {'training' if train else 'test'} set", names, paths, targets)


DATASET = Dataset(
    name="cub200",
    title="CUB-200-2011",
    classes=200,
    train=5994,
    val=5794,
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    licence="images are their owners'; non-commercial research and education",
    layout=f"{FOLDER}/ (images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, images/)",
    read=read,
    archives=(
        Archive(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            contents=FOLDER,
            md5="97eceeb196236b17998738112f37df78",
            free=True,
        ),
    ),
)
