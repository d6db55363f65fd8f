"""Describable Textures (Cimpoi et al. 2014) as an out-of-distribution set: all images."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source, image_folder
from .dataset import Archive, Dataset


def read(root: Path, train: bool, part: str) -> Source:
    """All 5,640 images with their 47 textures as labels. SD-Dropout does not say which images it used."""
    for folder in (root / "dtd" / "images", root / "dtd" / "dtd" / "images"):  # the archive's layout, torchvision's
        if folder.is_dir():
            return image_folder(folder)
    raise SkdError(f"{root / 'dtd' / 'images'} does not exist; unpack dtd-r1.0.1.tar.gz in {root}")


DATASET = Dataset(
    name="dtd",
    title="Describable Textures",
    classes=47,
    val=5640,
    homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    licence="research",
    layout="dtd/images/ with one folder a texture",
    read=read,
    archives=(
        Archive(
            url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            contents="dtd",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            free=True,
        ),
    ),
)
