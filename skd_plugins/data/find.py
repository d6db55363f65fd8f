"""From a recipe's data argument to its training and validation data."""

from pathlib import Path

from ..common.errors import SkdError
from ..common.files import cache_folder
from ..common.locks import make_folder_once
from .beton.file import beton_available
from .beton.write import write_beton, write_folder
from .datasets import DIGITS_PER_CLASS, EMBEDDED, find_dataset, open_source
from .sources import split_folder


def find_split(data: str | Path, train: bool) -> Path:
    """The training or validation half in a data folder; ``train.beton`` comes before ``train/``."""
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
    """The data folder. Embedded data are written to the cache when first asked for.

    Args:
        dataset: the recipe's `dataset`.
        data: a folder, the name of embedded data such as ``digits``, or None for the recipe's own.
    """
    name = dataset if data is None else data
    if name in EMBEDDED:
        size = DIGITS_PER_CLASS if name == "digits" else find_dataset(name).train
        return embedded(name, cache_folder() / f"{name}-{size}")
    if data is None:
        raise SkdError(
            f"this recipe needs --data: a folder with {dataset} as train.beton and val.beton, or train/ and val/; "
            f"see: skd data {dataset}"
        )
    return Path(data)


def evaluation_half(dataset: str, data: str | None) -> Path:
    """The file or folder whose images are evaluated; `dataset` is used without `data`."""
    folder = resolve_data(dataset, data)
    if folder.is_file():
        return folder
    try:
        return find_split(folder, train=False)
    except SkdError:
        if folder.is_dir() and any(child.is_dir() for child in folder.iterdir()):
            return folder  # the class folders themselves
        raise


def embedded(name: str, folder: Path) -> Path:
    """Writes embedded data as `.beton` (as PNG folders without FFCV) unless they are there; returns the folder."""

    def write(part: Path) -> None:
        for half in ("train", "val") if find_dataset(name).train else ("val",):
            source = open_source(name, half == "train")
            if (name, half) == ("digits", "train"):
                source = source.subset(DIGITS_PER_CLASS, seed=0)
            if beton_available():
                write_beton(source, part / f"{half}.beton", raw_share=1.0, workers=1)
            else:
                write_folder(source, part / half)

    try:
        make_folder_once(folder, write)
    except OSError as error:
        raise SkdError(
            f"{folder} can't be written: {error.strerror or error}; SKD_CACHE=FOLDER puts the cache elsewhere"
        ) from None
    return folder
