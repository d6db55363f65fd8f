"""Images named in list files, and readers for those files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...common.errors import SkdError
from ..sources import Image, Source, read_rgb

Box = tuple[int, int, int, int]  # left, top, right, bottom


@contextmanager
def reading(path: Path, archive: str = "the data set's archive") -> Iterator[None]:
    """Turns any error of a parser into one that names the file and where to get it."""
    try:
        yield
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist; it is in {archive}") from None
    except Exception as error:  # SciPy's parser raises anything for a damaged file
        raise SkdError(f"{path} is damaged ({type(error).__name__}: {error}); unpack {archive} again") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_table(path: Path) -> dict[int, str]:
    """Numbered lines, as CUB-200-2011 has them: ``17 005.Crested_Auklet/x.jpg``."""
    table: dict[int, str] = {}
    for line in read_lines(path):
        number, _, rest = line.partition(" ")
        if not number.isdecimal() or not rest:
            raise SkdError(f"{path}: {line!r} is not a number and a value; unpack the archive again")
        table[int(number)] = rest.strip()
    return table


def whole_number(text: object, low: int, high: int, *, what: str) -> int:
    """An integer from `low` to `high`, written in plain digits; `what` is its name in the error."""
    written = str(text)
    if not (written.isascii() and written.isdecimal() and low <= int(written) <= high):
        raise SkdError(f"{what} is {text}, not from {low} to {high}")
    return int(written)


def listed_files(
    description: str,
    classes: Sequence[str],
    paths: Sequence[Path],
    targets: Sequence[int],
    *,
    box_of: Callable[[int], Box] | None = None,
) -> Source:
    """A source of image files, which must all exist; `box_of` gives the part of an image to cut out."""
    for path in paths:
        if not path.is_file():
            raise SkdError(f"{path} does not exist, but is in the list of the {description}; unpack the archive again")

    def load(index: int) -> Image:
        image = read_rgb(paths[index])
        return np.asarray(image if box_of is None else image.crop(box_of(index)))

    return Source(
        description=description,
        classes=list(classes),
        targets=np.asarray(targets, dtype=np.int64),
        load=load,
        name_of=lambda index: str(paths[index]),
    )
