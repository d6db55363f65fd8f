"""`Dataset`: one entry of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import SkdError, unknown
from ..sources import Source


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch, and what it holds.

    Attributes:
        url: where it is.
        md5: its published checksum, None where there is none.
        contents: what is there after it has been unpacked, relative to the root.
        into: folder of the root it is unpacked in.
        file: its name, in the root or in `into`; the URL's by default.
        free: can be fetched without signing anything and has a checksum, so that ``--download`` does it.
        nested: it is an archive of archives, one a class, each of which goes into a folder of its name.
        optional: is needed for some layouts only.
    """

    url: str
    contents: str
    md5: str | None = None
    into: str = ""
    file: str = ""
    free: bool = False
    nested: bool = False
    optional: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file or self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set with a name.

    Attributes:
        name: in recipes and commands.
        title: its own name.
        classes: how many it has.
        train: official number of training images, 0 where it is for evaluation only.
        val: official number of evaluation images (of each part, if it has parts).
        homepage: whose it is.
        licence: what its owners say, in short.
        layout: what has to be under the root.
        read: opens a half; gets the root, whether it is the training half, and the part.
        archives: what to fetch.
        parts: names of its evaluation sets, where there are several.
        exact: its images are small, so their pixels are written as they are decoded, without JPEG's loss.
        embedded: needs no root.
    """

    name: str
    title: str
    classes: int
    train: int
    val: int
    homepage: str
    licence: str
    layout: str
    read: Callable[[Path, bool, str], Source]
    archives: tuple[Archive, ...] = ()
    parts: tuple[str, ...] = ()
    exact: bool = False
    embedded: bool = False

    def open(self, train: bool, root: Path | None, part: str = "") -> Source:
        """A half (or a part) as it lies under the root; sizes are not checked, see `check`.

        Raises:
            SkdError: there is no such half or part, or the files are not what they should be.
        """
        if train and not self.train:
            raise SkdError(f"{self.name} is for evaluation only: it has no training half")
        if self.parts and part not in self.parts:
            raise unknown(f"part of {self.name}", part, self.parts)
        if root is None and not self.embedded:
            raise SkdError(f"{self.name} needs --root: the folder with {self.layout}; see: skd data {self.name}")
        return self.read(root or Path(), train, part)

    def check(self, source: Source, train: bool, *, root: Path | None) -> None:
        """Compares a half with the official numbers.

        Raises:
            SkdError: a number of classes or images is another, or a class has no image.
        """
        images, expected = len(source.targets), self.train if train else self.val
        missing = len(source.classes) - len(set(source.targets.tolist()))
        if (images, len(source.classes), missing) != (expected, self.classes, 0):
            without = f" ({missing} of them without images)" if missing else ""
            raise SkdError(
                f"{source.description} has {images:,} images of {len(source.classes)} classes{without}, officially "
                f"{expected:,} of {self.classes}; complete {root or 'it'}, or add --subset if it is meant to be a part"
            )
