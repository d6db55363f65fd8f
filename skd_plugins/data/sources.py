"""Where images come from: a folder, or one of the known data sets."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from ..common.errors import SkdError
from ..common.files import write_json
from ..common.typed import read_json

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom


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
    names = ("train",) if train else ("val", "valid", "validation", "test")
    for name in names:
        if (data / name).is_dir():
            return data / name
    raise SkdError(f"{data} has no folder {' or '.join(repr(name) for name in names)} with one subfolder a class")


def read_folder(path: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """The files of a folder with one subfolder a class, with their labels, and the classes in the order of the labels.

    Classes and files stand in timm's natural order (2 before 10); where names tie in it (A and a), their code points
    decide. Files have torchvision's image types. Names that begin with a dot, and ``__MACOSX``, are skipped. A class
    without an image would shift all labels behind it, images in the folder itself would be a class without a name, and
    deeper ones would mix classes of equal names, so these are errors.
    """
    from timm.utils.misc import natural_key  # imports torch, as torchvision does; listing the sets needs none
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def listed(folder: Path) -> list[Path]:
        shown = (entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX")))
        return sorted(shown, key=lambda entry: (natural_key(entry.name), entry.name))

    def is_image(file: Path) -> bool:
        return file.suffix.lower() in IMG_EXTENSIONS

    entries = listed(path)
    folders = [entry for entry in entries if entry.is_dir()]
    if any(is_image(entry) for entry in entries):
        raise SkdError(
            f"{path} should have one subfolder a class, but has images itself; the flat val/ of ImageNet's archive is "
            "read by: skd data imagenet-1k, or skd write imagenet-1k --folder"
        )
    samples = []
    for label, folder in enumerate(folders):
        files = listed(folder)
        images = [(str(file), label) for file in files if is_image(file)]
        deeper = next((file for file in files if not is_image(file) and any(map(is_image, file.rglob("*")))), None)
        if deeper:
            inside = deeper.relative_to(path)
            raise SkdError(
                f"{path} should have one subfolder a class, but has images deeper, in {inside}; give the folder that "
                "holds the classes"
            )
        if not images:
            types = ", ".join(sorted({file.suffix or file.name for file in files})) or "nothing"
            raise SkdError(
                f"{path} should have one subfolder a class with images inside, but {folder.name} has {types}; images "
                f"are {' '.join(IMG_EXTENSIONS)}. Convert its files, or move it away"
            )
        samples += images
    if not samples:
        raise SkdError(f"{path} should have one subfolder a class with images inside, but has none")
    return samples, [folder.name for folder in folders]


def read_rgb(file: str | Path) -> PIL.Image:
    """An image file as RGB with 8 bits a channel. Transparency is dropped, as in torchvision."""
    with PIL.open(file) as opened:
        image: PIL.Image = opened
        if image.mode.startswith("I;16"):  # Pillow's convert would clip at 255
            image = PIL.fromarray(((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise SkdError(f"{file} has 32-bit numbers as pixels (mode {image.mode}); convert it to 8 or 16 bits")
        return image.convert("RGB")


class FolderData:
    """A folder with one subfolder a class; `targets` are the labels ``[N]``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not self.path.is_dir():
            raise SkdError(f"{self.path} is not a folder")
        self.samples, self.classes = read_folder(self.path)
        self.targets = np.array([label for _, label in self.samples], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def fingerprint(self) -> str:
        """A digest of the files' names in the folder, and of the sizes of up to 10,000 of them."""
        digest = hashlib.sha256()
        every = -(-len(self.samples) // 10_000)  # on a network's file system, a million sizes take minutes
        for index, (file, _) in enumerate(self.samples):
            digest.update(file.removeprefix(str(self.path)).encode(errors="surrogateescape") + b"\n")
            if index % every == 0:
                with suppress(OSError):  # a link to nowhere; `skip_broken` takes it
                    digest.update(b"%d\n" % os.stat(file).st_size)
        return digest.hexdigest()

    def name_of(self, index: int) -> str:
        """What messages call a sample."""
        return f"{self.samples[index][0]} (index {index})"


def image_folder(path: Path) -> Source:
    """One subfolder a class."""
    data = FolderData(path)
    return Source(
        description=f"folder {path.parent.name}/{path.name}",
        classes=data.classes,
        targets=data.targets,
        load=lambda index: np.asarray(read_rgb(data.samples[index][0])),
        name_of=lambda index: data.samples[index][0],
    )


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


HIERARCHY = "hierarchy.json"


def write_hierarchy(source: Source, folder: Path) -> None:
    """Writes the superclass of each class into a data folder, if the source has a hierarchy."""
    if source.hierarchy is not None:
        table = dict(zip(source.classes, source.hierarchy, strict=True))
        write_json(folder / HIERARCHY, table)


def read_hierarchy(folder: Path) -> dict[str, str]:
    """The superclass of each class, by its name, from a data folder."""
    path = Path(folder) / HIERARCHY
    if not path.exists():
        raise SkdError(f"{path} does not exist: these data have no hierarchy (those of skd data mixed have)")
    return read_json(path, what="a hierarchy")
