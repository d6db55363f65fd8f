"""LSUN and iSUN as out-of-distribution sets, from the archives of ODIN (Liang et al. 2018) or any folder of images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset
from .listed import listed_files


def read(root: Path, train: bool, part: str, *, folder: str, name: str) -> Source:
    """All images at any depth under a folder, sorted by their paths. They share the label 0, which nothing uses."""
    from timm.data import get_img_extensions  # imports torch; listing the data sets does not need it

    place = root / folder
    if not place.is_dir():
        raise SkdError(f"{place} does not exist; unpack the archive of {name} or put the images there")
    endings = get_img_extensions(as_set=True)
    # Archives made on a Mac have a hidden "._x.png", which is no image, for each "x.png".
    files = [file for file in place.rglob("*") if file.suffix.lower() in endings and not file.name.startswith(".")]
    if not files:
        raise SkdError(f"{place} has no images at any depth; unpack the archive of {name} again")
    return listed_files(f"{name} ({folder})", [name], sorted(files), [0] * len(files))


def _dataset(name: str, title: str, folder: str, count: int, url: str, md5: str | None) -> Dataset:
    return Dataset(
        name=name,
        title=title,
        classes=1,
        val=count,
        homepage="https://github.com/facebookresearch/odin",
        licence="none stated; images are their owners'",
        layout=f"{folder}/ (images at any depth)",
        read=partial(read, folder=folder, name=name),
        archives=(Archive(url=f"https://www.dropbox.com/s/{url}", contents=folder, md5=md5),),
        exact=True,
    )


LSUN_CROP = _dataset(
    "lsun-crop", "LSUN test scenes, random 32 x 32 crops", "LSUN", 10_000,
    "fhtsw1m3qxlwj6h/LSUN.tar.gz", "458a0a0ab8e5f1cb4516d7400568e460",
)  # fmt: skip
LSUN_RESIZE = _dataset(
    "lsun-resize", "LSUN test scenes, scaled down to 32 x 32", "LSUN_resize", 10_000,
    "moqh2wh8696c3yl/LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc",
)  # fmt: skip
ISUN = _dataset("isun", "iSUN, scaled down to 32 x 32", "iSUN", 8925, "ssz7qxfqae0cca5/iSUN.tar.gz", None)
