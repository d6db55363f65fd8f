"""The folder that holds the runs of a scale, each under its address, and the pages made of them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ...common.environment import machine
from ...common.errors import SkdError
from ...common.files import write_json
from .jobs import Job

State = Literal["done", "trained", "begun", "failed", "not run", "no data"]


class Store:
    """``runs/ADDRESS/`` of every job, ``artefacts/PAPER/NAME/`` of every artefact.

    A run's folder has ``job.json`` (what to do), ``trained.json`` (written last: the training is complete),
    ``evaluation/NAME.json`` (complete, too, once it is there) and ``error.txt`` (why the last try failed).

    Args:
        root: the folder of a scale.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, address: str) -> Path:
        """A run's."""
        return self.root / "runs" / address

    def artefact(self, id: str) -> Path:
        """An artefact's."""
        return self.root / "artefacts" / id

    def network(self, address: str) -> Path | None:
        """The folder that `train` wrote (a detector's OUTPUT_DIR), None until the training is complete."""
        record = self.trained(address)
        return None if record is None else self.folder(address) / str(record["run"])

    def finish(self, address: str, run: Path, seconds: float) -> None:
        """Notes that a training is complete."""
        folder = self.folder(address)
        record = {"run": run.relative_to(folder).as_posix(), "seconds": seconds, "machine": machine()}
        write_json(folder / "trained.json", record)

    def trained(self, address: str) -> dict[str, Any] | None:
        """``run``, ``seconds`` and ``machine`` of a complete training."""
        return _read(self.folder(address) / "trained.json")

    def values(self, address: str, evaluation: str) -> dict[str, Any] | None:
        """What an evaluation found, None if it has not been done."""
        return _read(self.evaluation(address, evaluation))

    def evaluation(self, address: str, name: str) -> Path:
        """Where an evaluation's values are."""
        return self.folder(address) / "evaluation" / f"{name}.json"

    def error(self, address: str) -> str | None:
        """Why the last try failed."""
        path = self.folder(address) / "error.txt"
        return path.read_text().strip() if path.is_file() else None

    def failed_since(self, address: str, began: float) -> bool:
        """Whether the last try failed, and did so after `began` (seconds since 1970)."""
        path = self.folder(address) / "error.txt"
        return path.is_file() and path.stat().st_mtime >= began - 1  # the file system's clock is a little behind

    def state(self, job: Job, wanted: Iterable[str] | None = None) -> State:
        """How far a job is.

        Args:
            job: the job.
            wanted: evaluations that have to be there; by default all that the plan has for it.
        """
        if self.network(job.address) is not None:
            names = job.evaluations if wanted is None else wanted
            missing = [name for name in names if self.values(job.address, name) is None]
            return "done" if not missing else "failed" if self.error(job.address) else "trained"
        if self.error(job.address):
            return "failed"
        if not job.present:
            return "no data"
        return "begun" if next(self.folder(job.address).glob("*/seed*/last.pt"), None) else "not run"

    @contextmanager
    def locked(self, address: str, *, wait: bool) -> Iterator[bool]:
        """Holds a run against other workers; the kernel releases it when its holder dies.

        Args:
            address: the run.
            wait: until it is free; otherwise False is given if somebody has it.
        """
        folder = self.folder(address)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SkdError(f"{path} is damaged ({error}); remove it, and what it is about is done again") from None
    return values
