"""Where the data of a scale are: the papers' in the user's folder; the mini scale's are made when needed."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ...common.errors import SkdError
from ...common.locks import make_folder_once
from .address import data_checksum
from .mini import write_mini

Scale = Literal["full", "mini"]
# Out-of-distribution sets as printed, and their folders (the names of ``skd list datasets``).
OUTSIDE = {"LSUN": "lsun-resize", "iSUN": "isun", "DTD": "dtd", "SVHN": "svhn"}


@dataclass(frozen=True)
class Datasets:
    """The data folders of a scale; at the mini scale, missing ones are made."""

    scale: Scale
    root: Path  # has one folder per data set, as ``skd data NAME --root ... --out ROOT/NAME`` writes them

    def folder(self, name: str) -> Path:
        """The folder of a data set, which may be missing at the full scale."""
        path = self.root / name
        if self.scale == "mini":
            make_folder_once(path, partial(write_mini, name=name))
        return path

    def existing(self, name: str) -> Path:
        """The folder of a data set, or an error that says how to get it."""
        path = self.folder(name)
        if not path.is_dir():
            raise SkdError(f"{path} does not exist; {self.way_to(name)}")
        return path

    def checksum(self, name: str) -> str | None:
        """The `data_checksum` of a data set; None if the data are missing."""
        path = self.folder(name)
        try:
            return data_checksum(path)
        except SkdError:
            return None

    def way_to(self, name: str) -> str:
        """How to get a data set, for messages."""
        return f"skd data {name} says what to fetch, skd data {name} --root ROOT --out {self.root / name} writes it"
