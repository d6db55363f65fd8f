"""ImageNet-1k (ILSVRC 2012)."""

from pathlib import Path
from typing import Any

import scipy  # its parts are imported on first use

from ...common.errors import SkdError
from ..sources import Source, image_folder, listed_files, read_lines, split_folder
from .dataset import Archive, Dataset

DEVKIT = "ILSVRC2012_devkit_t12"


def _flat_validation(folder: Path, root: Path) -> Source:
    """Image n of the flat folder has the class in line n of the devkit's ground truth."""
    table: Any = scipy.io.loadmat(str(root / DEVKIT / "data" / "meta.mat"), squeeze_me=True)["synsets"]
    # The leaves are the 1,000 classes.
    synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if int(row["num_children"]) == 0}
    truth_path = root / DEVKIT / "data" / "ILSVRC2012_validation_ground_truth.txt"
    classes = sorted(synsets.values())
    images = sorted(folder.glob("ILSVRC2012_val_*.JPEG"))
    truth = read_lines(truth_path)
    if len(truth) != len(images):
        raise SkdError(f"{folder} has {len(images)} images, {truth_path} has {len(truth)} lines; complete the folder")
    targets = [classes.index(synsets[int(line)]) for line in truth]
    return listed_files("ImageNet-1k validation set", classes, images, targets)


def read(root: Path, train: bool, part: str) -> Source:
    """``train/`` and ``val/`` with one folder a class, named by WordNet ids, or a flat ``val/`` and the devkit."""
    folder = split_folder(root, train)
    if not train and any(folder.glob("ILSVRC2012_val_*.JPEG")):
        return _flat_validation(folder, root)
    return image_folder(folder)


_URL = "https://image-net.org/data/ILSVRC/2012"
DATASET = Dataset(
    name="imagenet-1k",
    title="ImageNet-1k (ILSVRC 2012)",
    classes=1000,
    train=1_281_167,
    val=50_000,
    homepage="https://image-net.org/download.php",
    licence="its terms of access, to be agreed to there: non-commercial research and education",
    layout=f"train/ and val/ with one folder a class; or val/ as it is unpacked, with {DEVKIT}/ beside it",
    read=read,
    archives=(
        Archive(
            url=f"{_URL}/ILSVRC2012_img_train.tar", contents="train", into="train", nested=True,
            md5="1d675b47d978889d74fa0da5fadfb00e",
        ),
        Archive(
            url=f"{_URL}/ILSVRC2012_img_val.tar", contents="val", into="val", md5="29b22e2961454d5413ddabcf34fc5622"
        ),
        Archive(
            url=f"{_URL}/{DEVKIT}.tar.gz", contents=DEVKIT, optional=True, md5="fa75699e90414af021442c21a62c3abf"
        ),
    ),
)  # fmt: skip
