"""LSUN and iSUN as out-of-distribution sets, in the archives of ODIN (Liang et al. 2018), or any folder of images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...common.errors import SkdError
from ..sources import Source
from .dataset import Archive, Dataset
from .files import listed_files


def read(root: Path, train: bool, part: str, *, folder: str, name: str) -> Source:
    """All images under a folder, at any depth, sorted by their paths. They have one label, 0: nothing depends on it.

    ODIN's archives have them one level deeper, under ``test``, ``LSUN_resize`` or ``iSUN_patches``.

    Raises:
        SkdError: the folder is missing or has no images.
    """
    from timm.data import get_img_extensions

    place = root / folder
    if not place.is_dir():
        raise SkdError(f"{place} does not exist; unpack {name}'s archive or put the images there")
    endings = get_img_extensions(as_set=True)
    # Hidden ones are not pictures: archives made on a Mac have a "._x.png" beside "x.png".
    files = [file for file in place.rglob("*") if file.suffix.lower() in endings and not file.name.startswith(".")]
    if not files:
        raise SkdError(f"{place} has no images at any depth")
    return listed_files(f"{name} ({folder})", [name], sorted(files), [0] * len(files))


def _dataset(name: str, title: str, folder: str, count: int, url: str, md5: str | None) -> Dataset:
    return Dataset(
        name=name,
        title=title,
        classes=1,
        train=0,
        val=count,
        homepage="https://github.com/facebookresearch/odin",
        licence="none stated; images are their owners'",
        layout=f"{folder}/ (images at any depth)",
        read=partial(read, folder=folder, name=name),
        archives=(Archive(url=url, contents=folder, md5=md5),),
        exact=True,
    )


_URL = "https://www.dropbox.com/s"
LSUN_CROP = _dataset(
    "lsun-crop", "LSUN test scenes, random 32 x 32 crops", "LSUN", 10_000,
    f"{_URL}/fhtsw1m3qxlwj6h/LSUN.tar.gz", "458a0a0ab8e5f1cb4516d7400568e460",
)  # fmt: skip
LSUN_RESIZE = _dataset(
    "lsun-resize", "LSUN test scenes, scaled down to 32 x 32", "LSUN_resize", 10_000,
    f"{_URL}/moqh2wh8696c3yl/LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc",
)  # fmt: skip
ISUN = _dataset(
    "isun", "iSUN, scaled down to 32 x 32", "iSUN", 8925, f"{_URL}/ssz7qxfqae0cca5/iSUN.tar.gz", None
)  # fmt: skip
