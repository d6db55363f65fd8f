"""``skd data``: what a data set needs, whether it is complete, and writing it for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.errors import SkdError, unknown
from ..data.beton.write import write_beton, write_folder
from ..data.datasets import Dataset, find_dataset
from ..data.datasets.archives import provide
from ..data.sources import Source, write_hierarchy


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How a half is written, see `write_beton`.

    Attributes:
        folder: PNG folders instead of `.beton`.
        max_resolution: see `write_beton`.
        jpeg_quality: see `write_beton`.
        raw_share: see `write_beton`.
        workers: see `write_beton`.
    """

    folder: bool = False
    max_resolution: int | None = None
    jpeg_quality: int = 90
    raw_share: float = 0.0
    workers: int = 0


def write_half(source: Source, out: Path, train: bool, options: WriteOptions) -> None:
    """Writes one half into a data folder, with its hierarchy if it has one, and says so."""
    half = "train" if train else "val"
    print(f"{half}: {len(source.targets)} images, {len(source.classes)} classes, from {source.description}")
    if options.folder:
        path = write_folder(source, out / half)
        print(f"wrote {path}")
    else:
        path = write_beton(
            source, out / f"{half}.beton", max_resolution=options.max_resolution, jpeg_quality=options.jpeg_quality,
            raw_share=options.raw_share, workers=options.workers,
        )  # fmt: skip
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), verified")
    write_hierarchy(source, out)


def describe(dataset: Dataset) -> str:
    """What the data set is, what has to be where, and how to get it."""
    train = f"{dataset.train:,} training and " if dataset.train else ""
    parts = f", in each of {len(dataset.parts)} parts (such as {dataset.parts[0]})" if dataset.parts else ""
    lines = [
        f"{dataset.name}: {dataset.title}",
        f"  classes   {dataset.classes:,}",
        f"  images    {train}{dataset.val:,} evaluation{parts}",
        f"  licence   {dataset.licence}",
        f"  homepage  {dataset.homepage}",
        f"  expected  under --root: {dataset.layout}",
    ]
    for archive in dataset.archives:
        way = "--download fetches" if archive.free else "fetch by hand"
        checksum = f", MD5 {archive.md5}" if archive.md5 else ""
        lines.append(f"  {way}: {archive.url}{checksum}")
        if archive.contents != archive.name:
            lines.append(f"    to ROOT/{archive.name}; for ROOT/{archive.contents}")
    root = "" if dataset.embedded else " --root ROOT"
    lines.append(f"  then      skd data {dataset.name}{root} --out OUT")
    return "\n".join(lines)


def prepare(
    name: str,
    root: Path | None,
    out: Path | None,
    *,
    parts: tuple[str, ...] = (),
    download: bool = False,
    subset: bool = False,
    options: WriteOptions | None = None,
) -> None:
    """Checks a data set of the catalog, and writes it if there is a place to write to.

    Args:
        name: see `list_datasets`.
        root: where its files or archives are; archives are unpacked there.
        out: the data folder to write, None to check only. Parts go into a folder each.
        parts: which evaluation sets, of those that have several; none for all.
        download: fetch what is missing, where that is allowed.
        subset: accept other numbers of images and classes than the official ones.
        options: how to write; by default without JPEG's loss where the images are small.

    Raises:
        SkdError: something is missing, damaged, or not of the official size.
    """
    dataset = find_dataset(name)
    for part in parts:
        if part not in dataset.parts:
            raise unknown(f"part of {name}", part, dataset.parts) if dataset.parts else SkdError(f"{name} has no parts")
    options = options or WriteOptions(raw_share=float(dataset.exact))
    if root is not None:
        for archive in dataset.archives:
            if done := provide(archive, root, download=download):
                print(done)
    for part in parts or dataset.parts or ("",):
        halves = {train: dataset.open(train, root, part) for train in ((True, False) if dataset.train else (False,))}
        if dataset.train and halves[True].classes != halves[False].classes:
            raise SkdError(f"{name}: the two halves have not the same classes; complete {root}")
        for train, source in halves.items():
            if not subset:
                dataset.check(source, train, root=root)
            if out is None:
                print(f"fine: {source.description}, {len(source.targets):,} images, {len(source.classes)} classes")
            else:
                write_half(source, out / part, train, options)
