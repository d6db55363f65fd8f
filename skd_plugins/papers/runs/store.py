"""The folder with all runs of a scale, each under its address, and the pages made of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ...common import typed
from ...common.environment import machine
from ...common.files import write_json
from .jobs import Job

State = Literal["done", "trained", "begun", "failed", "not run", "no data"]


class Store:
    """``runs/ADDRESS/`` of every job, ``artefacts/PAPER/NAME/`` of every artefact.

    The folder of a run has ``job.json`` (what to do), ``trained.json`` (written last: the training is complete),
    ``evaluation/NAME.json`` (complete once it exists) and ``error.txt`` (why the last try failed).
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, address: str) -> Path:
        """The folder of a run."""
        return self.root / "runs" / address

    def artefact(self, id: str) -> Path:
        """The folder of an artefact."""
        return self.root / "artefacts" / id

    def network(self, address: str) -> Path | None:
        """The folder that `train` wrote (a detector's OUTPUT_DIR); None until the training is complete."""
        record = read_json(self.folder(address) / "trained.json")
        return self.folder(address) / str(record["run"]) if record else None

    def finish(self, address: str, run: Path, seconds: float) -> None:
        """Notes that a training is complete."""
        folder = self.folder(address)
        record = {"run": run.relative_to(folder).as_posix(), "seconds": seconds, "machine": machine()}
        write_json(folder / "trained.json", record)

    def evaluation(self, address: str, name: str) -> Path:
        """The file with the values of an evaluation."""
        return self.folder(address) / "evaluation" / f"{name}.json"

    def values(self, address: str, evaluation: str) -> dict[str, Any] | None:
        """The values of an evaluation, None before it is done."""
        return read_json(self.evaluation(address, evaluation))

    def error(self, address: str, since: float = 0) -> str | None:
        """Why the last try failed; None if it did not, or did before `since` (seconds since 1970)."""
        note = self.folder(address) / "error.txt"
        with suppress(FileNotFoundError):  # another worker may remove it at any moment
            if note.stat().st_mtime >= since - 1:  # file systems' clocks lag a little
                return note.read_text().strip()
        return None

    def state(self, job: Job, wanted: Iterable[str] | None = None) -> State:
        """How far a job is; it is done with the evaluations `wanted`, by default all that the plan has for it."""
        complete = self.network(job.address) is not None
        names = job.evaluations if wanted is None else wanted
        if complete and all(self.values(job.address, name) is not None for name in names):
            return "done"
        if self.error(job.address):
            return "failed"
        if complete:
            return "trained"
        if not job.present:
            return "no data"
        return "begun" if next(self.folder(job.address).glob("*/seed*/last.pt"), None) else "not run"

    @contextmanager
    def locked(self, address: str, *, wait: bool) -> Iterator[bool]:
        """Tries to lock a run, and says whether it did; the kernel unlocks it when its holder dies."""
        folder = self.folder(address)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        with suppress(Timeout):
            lock.acquire(blocking=wait)
        try:
            yield lock.is_locked
        finally:
            lock.release()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None if it does not exist."""
    return typed.read_json(path, what="whole (remove it, and the command makes it again)") if path.exists() else None
