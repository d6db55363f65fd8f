"""One run of a plan, from its ``job.json``: train what is missing, evaluate what is missing.

``python -m skd_plugins.papers.runs.worker ROOT ADDRESS ...`` does it in any process.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from ...common.errors import SkdError, one_line
from ...common.files import write_json
from ...recipe import Recipe, replace
from ...training.project import project, train_detector
from .inputs import Datasets
from .jobs import Job
from .store import Store


def write_job(store: Store, job: Job, datasets: Datasets) -> None:
    """Writes what `work` needs to know; evaluations that were asked for before stay."""
    path = store.folder(job.address) / "job.json"
    before = json.loads(path.read_text())["evaluations"] if path.is_file() else []
    write_json(path, {
        "address": job.address, "recipe": job.recipe.to_json(), "data": str(job.data.resolve()), "config": job.config,
        "needs": job.needs.address if job.needs else None, "evaluations": sorted({*before, *job.evaluations}),
        "scale": datasets.scale, "datasets": str(datasets.root.resolve()),
    })  # fmt: skip


def work(root: Path, addresses: Sequence[str], began: float | None = None) -> None:
    """Does jobs one after the other; several workers may have the same list, each job is done by one of them.

    What goes wrong with a job is noted in its folder, and the next one is begun.

    Args:
        root: the store's.
        addresses: of the jobs.
        began: when the command of these workers did (seconds since 1970), now by default. What has failed since then
            is not tried again.
    """
    began = time.time() if began is None else began
    store = Store(root.resolve())  # a teacher's path is in its student's recipe, which may not change
    if int(os.environ.get("RANK", 0)):  # a further process of a distributed training
        for address in addresses:
            _perform(store, address)
        return
    # First what nobody has begun, then, waiting for it, what another worker had in hand and may have died of.
    for wait in (False, True):
        for address in addresses:
            with store.locked(address, wait=wait) as mine:
                if mine and not store.failed_since(address, began):
                    _noted(store, address)


def _noted(store: Store, address: str) -> None:
    folder = store.folder(address)
    note = folder / "error.txt"
    with (folder / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            _perform(store, address)
            note.unlink(missing_ok=True)
        except SkdError as error:
            note.write_text(f"{error}\n")
        except Exception as error:  # out of memory, a bug: one run less, not the end of all
            traceback.print_exc()
            note.write_text(f"{type(error).__name__}: {error} (see {folder / 'log.txt'})\n")


def _perform(store: Store, address: str) -> None:
    folder = store.folder(address)
    job: dict[str, Any] = json.loads((folder / "job.json").read_text())
    recipe = Recipe.from_json(job["recipe"])
    if store.network(address) is None:
        source = None
        if job["needs"]:
            source = store.network(job["needs"])
            if source is None:
                raise SkdError(f"the run that it starts from, {job['needs']}, is not complete")
        started = time.monotonic()
        run = _detector(job, folder, source) if job["config"] else _training(job, recipe, folder, source)
        if int(os.environ.get("RANK", 0)):
            return
        store.finish(address, run, time.monotonic() - started)
    trained = store.network(address)
    assert trained is not None
    from .outcomes import EVALUATIONS, Subject

    subject = Subject(
        run=trained, folder=folder, recipe=recipe, data=Path(job["data"]),
        datasets=Datasets(job["scale"], Path(job["datasets"])),
    )  # fmt: skip
    failed = []
    for name in job["evaluations"]:
        if store.values(address, name) is None:
            try:
                write_json(store.evaluation(address, name), EVALUATIONS[name](subject))
            except SkdError as error:  # the data of one may be missing, those of the others are there
                failed.append(f"{name}: {error}")
    if failed:
        raise SkdError("; ".join(failed))


def _training(job: dict[str, Any], recipe: Recipe, folder: Path, teacher: Path | None) -> Path:
    from ...training.engine import train

    if teacher is not None:
        recipe = replace(recipe, method_args={**recipe.method_args, "teacher": str(teacher)})
    return train(recipe, data=job["data"], out=folder, resume=True)


def _detector(job: dict[str, Any], folder: Path, backbone: Path | None) -> Path:
    from ...weights import export_weights

    assert backbone is not None
    config, *overrides = job["config"].split()
    weights = export_weights(backbone, folder / "weights")
    return train_detector(project() / "detection", config, str(weights), folder / "detector", overrides).parent


@one_line
def main() -> None:
    """``python -m skd_plugins.papers.runs.worker ROOT ADDRESS ...``; exit code 2 if a run failed."""
    if len(sys.argv) < 3:
        raise SkdError("give the folder of the scale and addresses, as skd reproduce --commands prints them")
    root, addresses = Path(sys.argv[1]), sys.argv[2:]
    work(root, addresses)
    errors = [f"{address}: {error}" for address in addresses if (error := Store(root).error(address))]
    if errors:
        raise SkdError("; ".join(errors))


if __name__ == "__main__":
    main()
