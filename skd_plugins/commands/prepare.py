"""``skd data`` and ``skd write``: what a data set needs, whether it is complete, and writing it for training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from ..common.errors import SkdError, unknown
from ..data.beton.write import write_beton, write_folder
from ..data.datasets import Dataset, find_dataset, open_source
from ..data.datasets.archives import provide
from ..data.sources import Source, write_hierarchy


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How the images are written.

    Args:
        max_resolution: scale images with a longer side (pixels) down to it.
        jpeg_quality: 1 to 100.
        raw_share: share of the images, 0 to 1, stored as pixels: faster to read, larger. By default 0, but 1 in
            skd data for sets of small images.
        workers: processes, 0 for one a core.
        folder: write PNG folders instead, for training without FFCV.
    """

    max_resolution: int | None = None
    jpeg_quality: int = 90
    raw_share: float | None = None
    workers: int = 0
    folder: tyro.conf.FlagCreatePairsOff[bool] = False

    def write(self, source: Source, out: Path, train: bool) -> None:
        """Writes a half into a data folder, with its hierarchy if it has one."""
        half = "train" if train else "val"
        print(f"{half}: {len(source.targets)} images, {len(source.classes)} classes, from {source.description}")
        if self.folder:
            print(f"wrote {write_folder(source, out / half)}")
        else:
            path = write_beton(
                source, out / f"{half}.beton", max_resolution=self.max_resolution, jpeg_quality=self.jpeg_quality,
                raw_share=self.raw_share or 0.0, workers=self.workers,
            )  # fmt: skip
            print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), verified")
        write_hierarchy(source, out)


def write(
    source: tyro.conf.Positional[str],
    *,
    out: Path,
    root: Path | None = None,
    split: Literal["train", "val", "both"] = "both",
    per_class: int | None = None,
    writing: tyro.conf.OmitArgPrefixes[WriteOptions] = WriteOptions(),
) -> None:
    """Write train.beton and val.beton (FFCV) from an image folder or a data set of the catalog.

    Args:
        source: a folder with train/ and val/ inside, one subfolder a class; or a data set (see: skd list datasets).
        out: the folder to write to.
        root: the folder with the data set's files; see: skd data.
        split: which half to write.
        per_class: take only so many training images of each class.
    """
    halves = [train for train in (True, False) if split in ("train" if train else "val", "both")]
    opened = {train: open_source(source, train, root=root) for train in halves}  # both, before one is written
    if len(opened) == 2 and (lone := {*opened[True].classes} ^ {*opened[False].classes}):
        raise SkdError(
            f"the halves of {source} have different classes; only one of them has: {', '.join(sorted(lone)[:5])}"
        )
    for train, half in opened.items():
        if train and per_class is not None:
            half = half.subset(per_class, seed=0)
        writing.write(half, out, train)


def describe(dataset: Dataset) -> str:
    """What the data set is, which files have to be where, and how to get them."""
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
        lines.append(f"  {way}: {archive.url}{f', MD5 {archive.md5}' if archive.md5 else ''}")
        if archive.contents != archive.name:
            lines.append(f"    to ROOT/{archive.name}; for ROOT/{archive.contents}")
    root = " --root ROOT" if dataset.archives else ""
    return "\n".join([*lines, f"  then      skd data {dataset.name}{root} --out OUT"])


def data(
    name: tyro.conf.Positional[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    part: tuple[str, ...] = (),
    download: tyro.conf.FlagCreatePairsOff[bool] = False,
    subset: tyro.conf.FlagCreatePairsOff[bool] = False,
    writing: tyro.conf.OmitArgPrefixes[WriteOptions] = WriteOptions(),
) -> None:
    """Say what a data set needs; with --root check it, with --out write it for training.

    Args:
        name: see: skd list datasets.
        root: the folder with its files or archives; archives are unpacked there.
        out: the data folder to write.
        part: evaluation sets, if it has several, such as fog/3; all by default.
        download: fetch what is missing, if its owners allow that.
        subset: accept other numbers of images and classes than the official ones.
    """
    dataset = find_dataset(name)
    if root is None and out is None:
        print(describe(dataset))
        return
    for chosen in part:
        if chosen not in dataset.parts:
            raise unknown(f"part of {name}", chosen, dataset.parts)
    if writing.raw_share is None:
        writing = replace(writing, raw_share=float(dataset.exact))
    if root is not None:
        for archive in dataset.archives:
            if done := provide(archive, root, download=download):
                print(done)
    halves = (True, False) if dataset.train else (False,)
    for chosen in part or dataset.parts or ("",):
        sources = [dataset.open(train, root, chosen) for train in halves]
        if sources[0].classes != sources[-1].classes:
            raise SkdError(f"{name}: the training and the validation half have different classes; complete {root}")
        for train, source in zip(halves, sources, strict=True):
            if not subset:
                dataset.check(source, train, root=root)
            if out is None:
                print(f"fine: {source.description}, {len(source.targets):,} images, {len(source.classes)} classes")
            else:
                writing.write(source, out / chosen, train)
