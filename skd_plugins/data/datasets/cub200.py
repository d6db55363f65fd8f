"""CUB-200-2011 (Wah et al. 2011), with its official split."""

from pathlib import Path

from ..sources import Source, listed_files, read_lines
from .dataset import Archive, Dataset

FOLDER = "CUB_200_2011"


def read(root: Path, train: bool, part: str) -> Source:
    """The images that ``train_test_split.txt`` puts into a half, in the order of their numbers; labels from 0."""
    folder = root / FOLDER
    classes, images, labels, split = (
        {int(number): value for number, value in (line.split(maxsplit=1) for line in read_lines(folder / name))}
        for name in ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    chosen = [number for number in sorted(images) if int(split[number]) == train]
    return listed_files(
        f"CUB-200-2011 {'training' if train else 'test'} set",
        [classes[number] for number in sorted(classes)],
        [folder / "images" / images[number] for number in chosen],
        [int(labels[number]) - 1 for number in chosen],
    )


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
