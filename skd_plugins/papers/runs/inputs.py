"""What a reproduction is given: where the data of a scale are, and workers. Without torch, for the command's help."""

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


@dataclass(frozen=True)
class Workers:
    """What does the runs.

    Args:
        jobs: runs at a time; by default one per GPU, without GPUs one per core. 1 runs all in this process.
        slurm: submit to SLURM, with name=value of submitit's parameters, e.g. partition=gpu timeout_min=600.
    """

    jobs: int | None = None
    slurm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise SkdError(f"--jobs should be at least 1, got {self.jobs}")
        self.slurm_parameters()

    def slurm_parameters(self) -> dict[str, str | int]:
        """Under submitit's names: parameters that only SLURM has begin with ``slurm_``."""
        general = ("timeout_min", "mem_gb", "gpus_per_node", "cpus_per_task", "nodes", "tasks_per_node")
        parameters: dict[str, str | int] = {}
        for text in self.slurm:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise SkdError(f"--slurm takes name=value, such as partition=gpu; got {text!r}")
            parameters[name if name in general else f"slurm_{name}"] = int(value) if value.isdigit() else value
        return parameters
