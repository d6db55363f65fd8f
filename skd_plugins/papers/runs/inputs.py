"""Where the data of an artefact are: the papers' in the user's folder, those of the mini scale made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ...common.errors import SkdError
from ...common.locks import make_folder_once
from .address import data_checksum
from .mini import write_mini_corrupted, write_mini_data, write_mini_outside

Scale = Literal["full", "mini"]
# Out-of-distribution sets as printed, and their folders (the names of ``skd list datasets``).
OUTSIDE = {"LSUN": "lsun-resize", "iSUN": "isun", "DTD": "dtd", "SVHN": "svhn"}


@dataclass(frozen=True)
class Datasets:
    """The data folders of a scale; at the mini scale, missing ones are made.

    Args:
        root: has one folder per data set, as ``skd data NAME --root ... --out ROOT/NAME`` writes them.
    """

    scale: Scale
    root: Path

    def folder(self, name: str) -> Path:
        """The folder of a data set to train on."""
        return self._made(name, partial(write_mini_data, name=name))

    def checksum(self, name: str) -> str | None:
        """Its `data_checksum`; None if the data are missing."""
        path = self.folder(name)
        try:
            return data_checksum(path)
        except SkdError:
            return None

    def outside(self, name: str) -> Path:
        """The folder of an out-of-distribution set, named as printed."""
        return self._existing(OUTSIDE[name], partial(write_mini_outside, name=name))

    def corrupted(self) -> Path:
        """The folder of CIFAR-100-C, with ``CORRUPTION/SEVERITY`` in it."""
        return self._existing("cifar100c", write_mini_corrupted)

    def way_to(self, name: str) -> str:
        """How to get a data set, for messages."""
        return f"skd data {name} says what to fetch, skd data {name} --root ROOT --out {self.root / name} writes it"

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.root / name
        if self.scale == "mini":
            make_folder_once(path, make)
        return path

    def _existing(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self._made(name, make)
        if not path.is_dir():
            raise SkdError(f"{path} does not exist; {self.way_to(name)}")
        return path
