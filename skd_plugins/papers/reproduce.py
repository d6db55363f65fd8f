"""``skd reproduce``: tables and figures of the papers, with the published numbers beside ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..common.errors import SkdError
from .pages.write import would_lose_runs, write_artefact, write_index
from .runs.estimate import Estimate, Estimator
from .runs.execute import commands, execute
from .runs.inputs import Datasets, Scale
from .runs.jobs import Plan
from .runs.store import Store
from .tables.artefact import Artefact, Entry, Training
from .tables.catalog import artefacts, find_artefact
from .tables.published import METRIC_NAMES, Published


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


def print_artefacts(plan: Plan, store: Store) -> None:
    """One line an artefact: what it is, how many runs it has and how far they are."""
    rows = [("artefact", "runs", "done", "numbers", "state", "what it shows")]
    for artefact in plan.artefacts:
        jobs = plan.jobs_of(artefact)
        done = sum(store.state(job, artefact.wanted) == "done" for job in jobs)
        numbers = str(len(artefact.numbers) or "-")
        state = state_of(artefact, plan, store)
        rows.append((artefact.id, str(len(jobs)), str(done), numbers, state, artefact.title))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # no wrapping: a line an artefact, for people and for grep
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        f"{len(plan.artefacts)} artefacts at scale {plan.datasets.scale}, {len(plan.jobs)} different runs; make one "
        f"with: skd reproduce {plan.artefacts[0].id} --scale {plan.datasets.scale}"
    )


def state_of(artefact: Artefact, plan: Plan, store: Store) -> str:
    """In words: ``written``, ``ready`` (all is run), ``partly run``, ``not run``, ``no data``, or a problem."""
    states = Counter(store.state(job, artefact.wanted) for job in plan.jobs_of(artefact))
    if states["done"] == states.total():
        return "written" if (store.artefact(artefact.id) / "index.html").is_file() else "ready"
    for state in ("failed", "begun", "trained"):
        if states[state]:
            return f"{states[state]} {state}"
    return "partly run" if states["done"] else "no data" if states["no data"] else "not run"


def describe(artefact: Artefact, plan: Plan, store: Store, estimate: Estimate, left: Estimate) -> str:
    """The plan of an artefact: runs, evaluations, published numbers, and the time of all runs and of what is left."""
    seeds = plan.seeds_of(artefact)
    jobs = plan.jobs_of(artefact)
    needed = {job.needs.address for job in jobs if job.needs} - {job.address for job in jobs}
    lines = [
        f"{artefact.id}: {artefact.title}",
        f"  scale        {plan.datasets.scale}, {seeds} seed{'' if seeds == 1 else 's'}",
        f"  runs         {len(jobs)}" + (f", and {len(needed)} that these start from" if needed else ""),
        f"  evaluations  {', '.join(artefact.wanted)}",
        f"  published    {len(artefact.numbers)} numbers",
        f"  estimate     {left.hours:,.2f} of {estimate.hours:,.2f} {estimate.basis}",
    ]
    lines += [f"  note         {note}" for note in artefact.notes]
    for entry in artefact.entries:
        own = plan.jobs_of(artefact, entry)
        states = Counter(store.state(job, artefact.wanted) for job in own)
        lines.append(f"  {entry.label}")
        lines.append(f"      run        {_run_text(entry)}")
        if own[0].needs is not None:
            lines.append(f"      starts at  {own[0].needs.address} ({own[0].needs.recipe.name})")
        found = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"      seeds      {found}: {' '.join(job.address for job in own)}")
        numbers = [row for row in artefact.numbers if artefact.entry_of(row) is entry]
        if numbers:
            lines.append(f"      published  {'; '.join(_number_text(row) for row in numbers)}")
    return "\n".join(lines)


def _run_text(entry: Entry) -> str:
    run = entry.run
    if isinstance(run, Training):
        changes = " ".join(f"{name}={value}" for name, value in run.changes.items())
        return f"recipes/{run.recipe}.py {changes}".rstrip()
    return f"detection/configs/{run.config}.yaml on recipes/{run.backbone.recipe}.py"


def _number_text(row: Published) -> str:
    std = f" ± {row.std}" if row.std else ""
    words = " ".join(f"{name}={value}" for name, value in row.settings.items())
    return f"{METRIC_NAMES[row.metric]} {row.value}{std}" + (f" ({words})" if words else "")
