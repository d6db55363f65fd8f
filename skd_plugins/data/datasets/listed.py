"""Images named in list files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...common.errors import SkdError
from ..sources import Image, Source, read_rgb

Box = tuple[int, int, int, int]  # left, top, right, bottom


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


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
