"""Where images come from before they are written: a folder, or one of the known data sets."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL
from pydantic import TypeAdapter, ValidationError

from ..common.errors import SkdError
from ..common.files import write_json
from ..common.typed import first_problem

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Labelled images that can be indexed."""

    description: str  # for the JSON beside the file
    classes: list[str]
    targets: NDArray[np.int64]  # [N]
    load: Callable[[int], Image]  # gives the image of an index, uint8 [H, W, 3]
    name_of: Callable[[int], str]  # gives what messages call an index
    hierarchy: list[str] | None = None  # the superclass of each class

    def subset(self, per_class: int, seed: int, *, fewer: bool = False) -> "Source":
        """`per_class` random samples of each class, in the original order.

        Args:
            fewer: take all images of a class that has fewer, which is an error otherwise.
        """
        if per_class < 1:
            raise SkdError(f"--per-class must be at least 1, got {per_class}")
        shuffled = np.random.default_rng(seed).permutation(len(self.targets))
        chosen = [shuffled[self.targets[shuffled] == label][:per_class] for label in range(len(self.classes))]
        for label, indices in enumerate(chosen):
            if len(indices) < per_class and not fewer:
                raise SkdError(
                    f"--per-class {per_class}: class {self.classes[label]!r} of {self.description} has only "
                    f"{len(indices)} images"
                )
        keep = np.sort(np.concatenate(chosen))
        return replace(
            self,
            description=f"{self.description}, {'at most ' if fewer else ''}{per_class} a class (seed {seed})",
            targets=self.targets[keep],
            load=lambda index: self.load(int(keep[index])),
            name_of=lambda index: self.name_of(int(keep[index])),
        )


def split_folder(data: Path, train: bool) -> Path:
    """The training or validation folder of an ImageNet-style data set."""
    names = ("train",) if train else ("val", "validation", "test")
    for name in names:
        if (data / name).is_dir():
            return data / name
    raise SkdError(f"{data} has no folder {' or '.join(repr(name) for name in names)} with one subfolder a class")


def read_folder(path: Path) -> tuple[Any, list[str]]:
    """timm's reader of a folder with one subfolder a class, and the classes in the order of their labels.

    To timm the last folder is the class. Images in the folder itself would be a class without a name, and images two
    levels deep would mix classes of equal names, so both are errors.
    """
    from timm.data.readers.reader_image_folder import ReaderImageFolder  # imports torch; listing the sets needs none

    try:
        reader = ReaderImageFolder(str(path))
    except RuntimeError as error:
        raise SkdError(f"{path} should have one subfolder a class with images inside: {error}") from None
    for folder in sorted({os.path.dirname(file) for file, _ in reader.samples}):
        inside = os.path.relpath(folder, path)
        if inside == ".":
            raise SkdError(
                f"{path} should have one subfolder a class, but has images itself; the flat val/ of ImageNet's archive "
                "is read by: skd data imagenet-1k, or skd write imagenet-1k --folder"
            )
        if os.sep in inside:
            raise SkdError(
                f"{path} should have one subfolder a class, but has images deeper, in {inside}; give the folder that "
                "holds the classes"
            )
    return reader, sorted(reader.class_to_idx, key=lambda name: reader.class_to_idx[name])


def image_folder(path: Path) -> Source:
    """One subfolder a class, read by timm's folder reader, which decides which files are images."""
    reader, classes = read_folder(path)

    def load(index: int) -> Image:
        file, _ = reader[index]
        with file, PIL.open(file) as image:
            return np.asarray(image.convert("RGB"))

    return Source(
        description=f"folder {path.parent.name}/{path.name}",
        classes=classes,
        targets=np.array([label for _, label in reader.samples], dtype=np.int64),
        load=load,
        name_of=lambda index: str(reader.samples[index][0]),
    )


FILE = "hierarchy.json"


def write_hierarchy(source: Source, folder: Path) -> None:
    """Writes the superclass of each class into a data folder, if the source has a hierarchy."""
    if source.hierarchy is not None:
        table = dict(zip(source.classes, source.hierarchy, strict=True))
        write_json(folder / FILE, table)


def read_hierarchy(folder: Path) -> dict[str, str]:
    """The superclass of each class, by its name, from a data folder."""
    path = Path(folder) / FILE
    if not path.exists():
        raise SkdError(f"{path} does not exist: these data have no hierarchy (those of skd data mixed have)")
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise SkdError(f"{path} is damaged: {first_problem(error)}") from None
