"""Where the data of an artefact are: the papers' in a folder of the user's, the mini scale's made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
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
    """The data folders of a scale.

    Attributes:
        scale: ``mini`` makes what is missing.
        root: has one folder a data set, as ``skd data NAME --root ... --out ROOT/NAME`` writes them.
    """

    scale: Scale
    root: Path

    def folder(self, name: str) -> Path:
        """The folder of a data set to train on; at the mini scale it is made."""
        path = self.root / name
        if self.scale == "mini":
            make_folder_once(path, lambda part: write_mini_data(part, name))
        return path

    def checksum(self, name: str) -> str | None:
        """See `data_checksum`; None if the data are not there."""
        path = self.folder(name)
        try:
            return data_checksum(path)
        except SkdError:
            return None

    def outside(self, name: str) -> Path:
        """The folder of an out-of-distribution set, named as printed.

        Raises:
            SkdError: it is not there.
        """
        path = self.root / OUTSIDE[name]
        if self.scale == "mini":
            make_folder_once(path, lambda part: write_mini_outside(part, name))
        if not path.is_dir():
            raise SkdError(f"{path} does not exist; {self.way_to(OUTSIDE[name])}")
        return path

    def corrupted(self) -> Path:
        """The folder of CIFAR-100-C, with ``CORRUPTION/SEVERITY`` in it.

        Raises:
            SkdError: it is not there.
        """
        path = self.root / "cifar100c"
        if self.scale == "mini":
            make_folder_once(path, write_mini_corrupted)
        if not path.is_dir():
            raise SkdError(f"{path} does not exist; {self.way_to('cifar100c')}")
        return path

    def way_to(self, name: str) -> str:
        """How to get a data set, for messages."""
        return f"skd data {name} says what to fetch, skd data {name} --root ROOT --out {self.root / name} writes it"
