"""From a recipe's data argument to its two halves."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..common.errors import SkdError
from ..common.files import cache_folder
from .beton.file import beton_available
from .beton.write import write_beton, write_folder
from .datasets import DIGITS_PER_CLASS, open_source
from .sources import split_folder


def find_split(data: str | Path, train: bool) -> Path:
    """The training or validation half in a data folder: ``train.beton`` before ``train/``.

    Raises:
        SkdError: there is neither; the message names what was looked for.
    """
    data = Path(data)
    if not data.exists():
        raise SkdError(
            f"data path {data} does not exist; write the data with skd write SOURCE --out {data}, or give the folder "
            "that holds train and val"
        )
    half = "train" if train else "val"
    if (data / f"{half}.beton").is_file():
        return data / f"{half}.beton"
    try:
        return split_folder(data, train)
    except SkdError:
        raise SkdError(
            f"{data} has neither {half}.beton nor a folder {half}; write the data with "
            f"skd write SOURCE --out {data}, or give the folder that holds them"
        ) from None


def resolve_data(dataset: str, data: str | None) -> Path:
    """The data folder; the embedded digits are written to the cache when they are asked for and not there.

    Args:
        dataset: the recipe's `dataset`.
        data: a folder, ``digits``, or None for the recipe's embedded default.
    """
    if data is None and dataset != "digits":
        raise SkdError(
            f"this recipe needs --data: a folder with {dataset} as train.beton and val.beton, or train/ and val/; "
            f"see: skd data {dataset}"
        )
    if data is None or data == "digits":
        return embedded_digits(cache_folder() / f"digits-{DIGITS_PER_CLASS}")
    return Path(data)


def embedded_digits(folder: Path, *, per_class: int | None = DIGITS_PER_CLASS) -> Path:
    """Writes the digits as `.beton` (as PNG folders without FFCV) unless they are there; returns the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        if all((folder / half).exists() for half in ("train.beton", "val.beton")):
            return folder  # somebody else's cache, which is complete
        raise SkdError(
            f"{folder} can't be written: {error.strerror or error}; SKD_CACHE=FOLDER puts the cache elsewhere"
        ) from None
    with lock:  # the processes of a launch all come here at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write_digits(folder, per_class)
    return folder


def _write_digits(folder: Path, per_class: int | None) -> None:
    for train in (True, False):
        half = "train" if train else "val"
        if (folder / f"{half}.beton").exists() or (folder / half).exists():
            continue
        source = open_source("digits", train)
        if train and per_class:
            source = source.subset(per_class, seed=0)
        if beton_available():
            write_beton(source, folder / f"{half}.beton", raw_share=1.0, workers=1)
        else:
            part = folder / f".{half}.{os.getpid()}.part"
            write_folder(source, part)
            os.replace(part, folder / half)
