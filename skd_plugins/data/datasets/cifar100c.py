"""CIFAR-100-C (Hendrycks and Dietterich 2019): 19 corruptions of CIFAR-100's test set at five severities."""

from pathlib import Path

import numpy as np

from ..sources import Source
from .cifar100 import CLASSES
from .dataset import Archive, Dataset

FOLDER = "CIFAR-100-C"
# The benchmark's fifteen, in its order, and its four extra ones.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)


def read(root: Path, train: bool, part: str) -> Source:
    """One corruption at one severity, such as ``fog/3``; a corruption's file has the severities one after another."""
    corruption, _, severity = part.partition("/")
    path = root / FOLDER / f"{corruption}.npy"
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    labels = np.load(root / FOLDER / "labels.npy", allow_pickle=False)
    count = len(images) // len(SEVERITIES)
    first = SEVERITIES.index(int(severity)) * count
    return Source(
        description=f"CIFAR-100-C {corruption}, severity {severity}",
        classes=list(CLASSES),
        targets=np.asarray(labels[first : first + count], dtype=np.int64),
        load=lambda index: np.asarray(images[first + index]),
        name_of=lambda index: f"image {first + index} of {path}",
    )


DATASET = Dataset(
    name="cifar100c",
    title="CIFAR-100-C",
    classes=100,
    val=10_000,
    homepage="https://zenodo.org/records/3555552",
    licence="CC BY 4.0",
    layout=f"{FOLDER}/ (labels.npy and one .npy a corruption)",
    read=read,
    archives=(
        Archive(
            url="https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
            contents=FOLDER,
            md5="11f0ed0f1191edbf9fa23466ae6021d3",
            free=True,
        ),
    ),
    parts=tuple(f"{corruption}/{severity}" for corruption in (*CORRUPTIONS, *EXTRA) for severity in SEVERITIES),
    exact=True,
)
