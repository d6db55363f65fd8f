"""One run of a plan, from its ``job.json``: train what is missing, evaluate what is missing."""

import json
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from ...common.errors import SkdError, one_line
from ...common.files import write_json
from ...recipe import Recipe, replace
from ...training.engine import train
from ...training.project import project, train_detector
from ...weights import export_weights
from .inputs import Datasets
from .jobs import Job
from .scores import EVALUATIONS, Subject
from .store import Store, read_json


def write_job(store: Store, job: Job, datasets: Datasets) -> None:
    """Writes what `work` needs to know; evaluations that were asked for earlier stay."""
    path = store.folder(job.address) / "job.json"
    before = read_json(path) or {"evaluations": []}
    values = {
        "address": job.address,
        "recipe": job.recipe.to_json(),
        "data": str(job.data.resolve()),
        "config": job.config,
        "needs": job.needs.address if job.needs else None,
        "evaluations": sorted({*before["evaluations"], *job.evaluations}),
        "scale": datasets.scale,
        "datasets": str(datasets.root.resolve()),
    }
    write_json(path, values)


def work(root: Path, addresses: Sequence[str], began: float | None = None) -> None:
    """Does jobs one after the other; workers may share a list, and one of them does each job.

    A failure is noted in the folder of the job, and the next job begins. Jobs that have failed since the command of
    these workers `began` (seconds since 1970, by default now) are not tried again.
    """
    began = time.time() if began is None else began
    store = Store(root.resolve())  # a student's recipe has its teacher's path, which must not change
    # First what is free; then what another worker holds, in case that worker died.
    for wait in (False, True):
        for address in addresses:
            with store.locked(address, wait=wait) as held:
                if held and not store.error(address, since=began):
                    _perform_noted(store, address)


def _perform_noted(store: Store, address: str) -> None:
    log, note = (store.folder(address) / name for name in ("log.txt", "error.txt"))
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            _perform(store, address)
            note.unlink(missing_ok=True)
        except SkdError as error:
            note.write_text(f"{error}\n")
        except Exception as error:  # out of memory, or a bug: the other runs go on
            traceback.print_exc()
            note.write_text(f"{type(error).__name__}: {error} (see {log})\n")


def _perform(store: Store, address: str) -> None:
    folder = store.folder(address)
    job = json.loads((folder / "job.json").read_text())
    recipe = Recipe.from_json(job["recipe"])
    run = store.network(address)
    if run is None:
        started = time.monotonic()
        run = _train(store, job, recipe, folder)
        store.finish(address, run, time.monotonic() - started)
    datasets = Datasets(job["scale"], Path(job["datasets"]))
    subject = Subject(run=run, folder=folder, recipe=recipe, data=Path(job["data"]), datasets=datasets)
    failed = []
    for name in job["evaluations"]:
        if store.values(address, name) is None:
            try:
                write_json(store.evaluation(address, name), EVALUATIONS[name](subject))
            except SkdError as error:  # its data may be missing while those of the others exist
                failed.append(f"{name}: {error}")
    if failed:
        raise SkdError("; ".join(failed))


def _train(store: Store, job: dict[str, str], recipe: Recipe, folder: Path) -> Path:
    if job["needs"]:
        source = store.network(job["needs"])
        if source is None:
            raise SkdError(f"{job['needs']}, the run that this one starts from, is not complete; run it first")
        if job["config"]:
            config, *overrides = job["config"].split()
            weights = export_weights(source, folder / "weights")
            return train_detector(project() / "detection", config, str(weights), folder / "detector", overrides).parent
        recipe = replace(recipe, method_args={**recipe.method_args, "teacher": str(source)})
    return train(recipe, data=job["data"], out=folder, resume=True)


@one_line
def main() -> None:
    """``python -m skd_plugins.papers.runs.worker ROOT ADDRESS ...``; exit code 2 if a run failed."""
    if len(sys.argv) < 3:
        raise SkdError("give the folder of the scale and addresses, as skd reproduce --commands prints them")
    root, addresses = Path(sys.argv[1]), sys.argv[2:]
    work(root, addresses)
    if errors := [f"{address}: {error}" for address in addresses if (error := Store(root).error(address))]:
        raise SkdError("; ".join(errors))


if __name__ == "__main__":
    main()
