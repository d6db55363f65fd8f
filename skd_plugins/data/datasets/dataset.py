"""What the catalog says about a data set and its archives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import SkdError, first_line, unknown
from ..sources import Source


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch, and what it holds."""

    url: str
    contents: str  # what is under the root once it is unpacked
    md5: str | None = None  # as published
    into: str = ""  # the folder under the root to unpack it into
    free: bool = False  # --download fetches it: it has a checksum, and there is nothing to sign
    nested: bool = False  # it holds one archive per class; each is unpacked into a folder of its own name
    optional: bool = False  # only some layouts need it

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set of the catalog: how to get it, how to read it, and its official size."""

    name: str
    title: str
    classes: int
    train: int = 0  # official number of training images; 0 if the set is for evaluation only
    val: int  # official number of evaluation images, in each part
    homepage: str
    licence: str
    layout: str  # what has to be under the root
    read: Callable[[Path, bool, str], Source]  # gets the root, whether to read the training half, and the part
    archives: tuple[Archive, ...] = ()  # none if the images come with a library, so that no root is needed
    parts: tuple[str, ...] = ()  # the names of the evaluation sets, if there are several
    exact: bool = False  # small images, stored as pixels to avoid JPEG's loss

    def open(self, train: bool, root: Path | None, part: str = "") -> Source:
        """Opens a half, or a part, as it lies under the root; `check` compares it with the official size.

        Readers leave errors to this function: whatever a parser raises for a missing or damaged list is one line.
        """
        if train and not self.train:
            raise SkdError(f"{self.name} is for evaluation only; open its evaluation half")
        if self.parts and part not in self.parts:
            raise unknown(f"part of {self.name}", part, self.parts)
        if root is None and self.archives:
            raise SkdError(f"{self.name} needs --root: the folder with {self.layout}; see: skd data {self.name}")
        try:
            return self.read(root or Path(), train, part)
        except (SkdError, ImportError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise SkdError(
                f"{self.name} can't be read from {root} ({reason}); complete or replace it, see: skd data {self.name}"
            ) from error

    def check(self, source: Source, train: bool, *, root: Path | None) -> None:
        """Compares a half with the official numbers of images and classes."""
        images, expected = len(source.targets), self.train if train else self.val
        missing = len(source.classes) - len(set(source.targets.tolist()))
        if (images, len(source.classes), missing) != (expected, self.classes, 0):
            without = f" ({missing} of them without images)" if missing else ""
            raise SkdError(
                f"{source.description} has {images:,} images of {len(source.classes)} classes{without}, officially "
                f"{expected:,} of {self.classes}; complete {root or 'it'}, or add --subset to accept a part of it"
            )
