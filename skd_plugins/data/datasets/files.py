"""Reading lists of files, with errors that name the line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...common.errors import SkdError
from ..sources import Image, Source

Box = tuple[int, int, int, int]  # left, top, right, bottom


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without those that are empty.

    Raises:
        SkdError: it is missing, or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist; is the root the right one, and the archive unpacked?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SkdError(f"{path} can't be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def read_table(path: Path) -> dict[int, str]:
    """Lines of a number and the rest, as CUB-200-2011 has them: ``17 005.Crested_Auklet/x.jpg``.

    Raises:
        SkdError: a line is not of that form, or a number comes twice.
    """
    table: dict[int, str] = {}
    for line in read_lines(path):
        number, _, rest = line.partition(" ")
        if not number.isdecimal() or not rest:
            raise SkdError(f"{path}: {line!r} is not a number and a value; unpack the archive again")
        if int(number) in table:
            raise SkdError(f"{path} has number {number} twice; unpack the archive again")
        table[int(number)] = rest.strip()
    return table


def whole_number(text: object, low: int, high: int, *, what: str) -> int:
    """An integer from `low` to `high`, in plain digits.

    Raises:
        SkdError: it is not.
    """
    written = str(text)
    number = int(written) if written.isascii() and written.isdecimal() else low - 1
    if not low <= number <= high:
        raise SkdError(f"{what} is {text}, not from {low} to {high}")
    return number


def listed_files(
    description: str,
    classes: Sequence[str],
    paths: Sequence[Path],
    targets: Sequence[int] | NDArray[np.int64],
    *,
    box_of: Callable[[int], Box] | None = None,
) -> Source:
    """A source of image files.

    Args:
        description: see `Source`.
        classes: see `Source`.
        paths: the files; that they exist is checked here, that they are images when they are loaded.
        targets: their labels.
        box_of: what to cut out of an image.

    Raises:
        SkdError: a file is missing.
    """
    from PIL import Image as PIL

    for path in paths:
        if not path.is_file():
            raise SkdError(f"{path} does not exist, but is in the list of the {description}; unpack the archive again")

    def load(index: int) -> Image:
        with PIL.open(paths[index]) as opened:
            image = opened.convert("RGB")
        return np.asarray(image if box_of is None else image.crop(box_of(index)))

    return Source(
        description=description,
        classes=list(classes),
        targets=np.asarray(targets, dtype=np.int64),
        load=load,
        name_of=lambda index: str(paths[index]),
    )
