"""Out-of-distribution sets: LSUN and iSUN from the archives of ODIN (Liang et al. 2018), DTD and SVHN."""

from functools import partial
from pathlib import Path

import numpy as np

from ...common.errors import SkdError
from ..sources import Source, image_folder, listed_files
from .dataset import Archive, Dataset

_IMAGES = {".png", ".jpg", ".jpeg"}  # as timm's


def read_scenes(root: Path, train: bool, part: str, *, folder: str, name: str) -> Source:
    """All images at any depth under a folder, sorted by their paths. They share the label 0, which nothing uses."""
    place = root / folder
    # Archives made on a Mac have a hidden "._x.png", which is no image, for each "x.png".
    files = [file for file in place.rglob("*") if file.suffix.lower() in _IMAGES and not file.name.startswith(".")]
    if not files:
        raise SkdError(f"{place} has no images at any depth; unpack the archive of {name} or put the images there")
    return listed_files(f"{name} ({folder})", [name], sorted(files), [0] * len(files))


def read_textures(root: Path, train: bool, part: str) -> Source:
    """All 5,640 images with their 47 textures as labels. SD-Dropout does not say which images it used."""
    for folder in (root / "dtd" / "images", root / "dtd" / "dtd" / "images"):  # the archive's layout, torchvision's
        if folder.is_dir():
            return image_folder(folder)
    raise SkdError(f"{root / 'dtd' / 'images'} does not exist; unpack dtd-r1.0.1.tar.gz in {root}")


def read_house_numbers(root: Path, train: bool, part: str) -> Source:
    """The cropped digits' test set, read by torchvision, which verifies it; labels are the digits."""
    from torchvision.datasets import SVHN  # imports torch; listing the data sets does not need it

    data = SVHN(str(root), split="test")
    return Source(
        description="SVHN test set",
        classes=[str(digit) for digit in range(10)],
        targets=np.asarray(data.labels, dtype=np.int64),
        load=lambda index: np.ascontiguousarray(data.data[index].transpose(1, 2, 0)),
        name_of=lambda index: f"image {index} of {root / 'test_32x32.mat'}",
    )


def _scenes(name: str, title: str, folder: str, count: int, url: str, md5: str | None) -> Dataset:
    return Dataset(
        name=name,
        title=title,
        classes=1,
        val=count,
        homepage="https://github.com/facebookresearch/odin",
        licence="none stated; images are their owners'",
        layout=f"{folder}/ (images at any depth)",
        read=partial(read_scenes, folder=folder, name=name),
        archives=(Archive(url=f"https://www.dropbox.com/s/{url}", contents=folder, md5=md5),),
        exact=True,
    )


LSUN_CROP = _scenes(
    "lsun-crop", "LSUN test scenes, random 32 x 32 crops", "LSUN", 10_000,
    "fhtsw1m3qxlwj6h/LSUN.tar.gz", "458a0a0ab8e5f1cb4516d7400568e460",
)  # fmt: skip
LSUN_RESIZE = _scenes(
    "lsun-resize", "LSUN test scenes, scaled down to 32 x 32", "LSUN_resize", 10_000,
    "moqh2wh8696c3yl/LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc",
)  # fmt: skip
ISUN = _scenes("isun", "iSUN, scaled down to 32 x 32", "iSUN", 8925, "ssz7qxfqae0cca5/iSUN.tar.gz", None)
DTD = Dataset(  # Cimpoi et al. 2014
    name="dtd",
    title="Describable Textures",
    classes=47,
    val=5640,
    homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    licence="research",
    layout="dtd/images/ with one folder a texture",
    read=read_textures,
    archives=(
        Archive(
            url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            contents="dtd",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            free=True,
        ),
    ),
)
SVHN = Dataset(  # Netzer et al. 2011
    name="svhn",
    title="Street View House Numbers, cropped digits",
    classes=10,
    val=26_032,
    homepage="http://ufldl.stanford.edu/housenumbers/",
    licence="non-commercial",
    layout="test_32x32.mat",
    read=read_house_numbers,
    archives=(
        Archive(
            url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            contents="test_32x32.mat",
            md5="eb5a983be6a315427106f1b164d9cef3",
            free=True,
        ),
    ),
    exact=True,
)
