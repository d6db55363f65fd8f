"""``skd reproduce``: tables and figures of the papers, with the published numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import SkdError
from . import artefacts, find_artefact
from .artefact import Artefact
from .datasets import Datasets, Scale
from .estimate import Estimator
from .execution import commands, execute
from .listing import describe, print_artefacts
from .pages import would_lose_runs, write_artefact, write_index
from .planning import Plan
from .store import Store


def reproduce(
    names: Sequence[str],
    *,
    scale: Scale = "full",
    data: Path = Path("data"),
    out: Path = Path("runs/reproduce"),
    seeds: int | None = None,
    list_only: bool = False,
    dry_run: bool = False,
    commands_only: bool = False,
    jobs: int | None = None,
    slurm: Sequence[str] = (),
) -> None:
    """Plans, trains what is missing, evaluates, and writes the artefacts.

    Args:
        names: artefacts (``cs-kd/table1``), or ``all``.
        scale: ``full`` is the papers' setting, ``mini`` proves the pipeline on embedded data in minutes.
        data: has one folder a data set, as ``skd data NAME --out DATA/NAME`` writes them; of the full scale.
        out: everything goes to ``out/SCALE``; what is complete there is not repeated.
        seeds: runs of each training, None for the papers' number.
        list_only: print what there is and how far it is.
        dry_run: print what would be done.
        commands_only: print a shell command for every run that is left, for any scheduler.
        jobs: runs at a time, see `execute`.
        slurm: see `execute`.

    Raises:
        SkdError: an unknown name; or runs failed or lack their data (after all others and the pages are done).
    """
    if seeds is not None and seeds < 1:
        raise SkdError(f"--seeds should be at least 1, got {seeds}")
    if jobs is not None and jobs < 1:
        raise SkdError(f"--jobs should be at least 1, got {jobs}")
    chosen = _chosen(names, list_only)
    root = out / scale
    store = Store(root)
    plan = Plan(chosen, Datasets(scale, root / "data" if scale == "mini" else data), seeds)
    if list_only:
        print_artefacts(plan, store)
        return
    if dry_run:
        estimator = Estimator(root / "steps.json")
        for artefact in chosen:
            needed = plan.needed(artefact)
            left = [job for job in needed if store.network(job.address) is None]
            print(describe(artefact, plan, store, *map(estimator.estimate, (needed, left))), flush=True)
        if len(chosen) > 1:
            total = estimator.estimate(plan.jobs.values())
            left = [job for job in plan.jobs.values() if store.network(job.address) is None]
            hours = f"{estimator.estimate(left).hours:,.2f} of {total.hours:,.2f}"
            print(f"all: {len(plan.jobs)} different runs, {len(left)} to train, {hours} {total.basis}")
        return
    if commands_only:
        print("\n".join(commands(plan, store)))
        return
    execute(plan, store, jobs=jobs, slurm=slurm)
    for artefact in chosen:
        if would_lose_runs(artefact, plan, store):
            print(f"{artefact.id}: its page stays as it was, since data of runs in it are not there now", flush=True)
        else:
            print(f"{artefact.id}: {write_artefact(artefact, plan, store)}", flush=True)
    print(f"index: {write_index(store, scale)}")
    failed = [job for job in plan.jobs.values() if store.state(job) == "failed"]
    absent = [job for job in plan.jobs.values() if not job.present and store.state(job) != "done"]
    if failed:
        raise SkdError(
            f"{len(failed)} of {len(plan.jobs)} runs failed, the first with: {store.error(failed[0].address)}; the "
            "same command tries them again"
        )
    if absent:
        raise SkdError(f"{len(absent)} of {len(plan.jobs)} runs are left out: their data are not there (see above)")


def _chosen(names: Sequence[str], list_only: bool) -> list[Artefact]:
    if not names and not list_only:
        raise SkdError("which artefact? skd reproduce --list shows all; skd reproduce all makes all")
    if not names or "all" in names:
        return list(artefacts().values())
    return [find_artefact(name) for name in dict.fromkeys(names)]
