"""``skd reproduce``: tables and figures of the papers, with the published numbers beside ours."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from .. import papers
from ..common.errors import SkdError
from .runs.inputs import Datasets, Scale, Workers
from .runs.jobs import Job, Plan
from .runs.store import State, Store
from .tables import ARTEFACTS, find_artefact
from .tables.artefact import Artefact, Entry, Training
from .tables.published import Published


@dataclass(frozen=True)
class Show:
    """What to print instead of running anything.

    Args:
        dry_run: print runs, evaluations, published numbers and the time it would take.
        commands: print one shell command for each run that is left, for any other scheduler.
        list: print all artefacts and how far they are.
    """

    dry_run: FlagCreatePairsOff[bool] = False
    commands: FlagCreatePairsOff[bool] = False
    list: FlagCreatePairsOff[bool] = False


_ANY, _RUN = Workers(), Show()


def reproduce(
    artefacts: Positional[tuple[str, ...]] = (),
    *,
    scale: Scale = "full",
    data: Path = Path("data"),
    out: Path = Path("runs/reproduce"),
    seeds: int | None = None,
    workers: OmitArgPrefixes[Workers] = _ANY,
    show: OmitArgPrefixes[Show] = _RUN,
) -> None:
    """Make tables and figures of the papers, with the published numbers beside ours; finished runs are not repeated.

    Args:
        artefacts: such as cs-kd/table1, or all; see --list.
        scale: full is the papers' setting; mini proves the pipeline on embedded data and reproduces nothing.
        data: has one folder per data set, as skd data NAME --out DATA/NAME writes them (full scale).
        out: runs, tables, figures and pages go to OUT/SCALE.
        seeds: runs of each training; the paper's number by default (1 at the mini scale).
        workers: what does the runs.
        show: what to print instead.
    """
    if seeds is not None and seeds < 1:
        raise SkdError(f"--seeds should be at least 1, got {seeds}")
    if not artefacts and not show.list:
        raise SkdError("which artefact? skd reproduce --list shows all; skd reproduce all makes all")
    every = not artefacts or "all" in artefacts
    chosen = ARTEFACTS.values() if every else [find_artefact(name) for name in dict.fromkeys(artefacts)]
    root = out / scale
    store = Store(root)
    plan = Plan(chosen, Datasets(scale, root / "data" if scale == "mini" else data), seeds)
    if show.list:
        _print_artefacts(plan, store)
    elif show.dry_run:
        _print_plan(plan, store)
    elif show.commands:
        print("\n".join(papers.commands(plan, store)))
    else:
        papers.execute(plan, store, workers)
        _write_pages(plan, store)


def _write_pages(plan: Plan, store: Store) -> None:
    for artefact in plan.artefacts:
        if papers.would_lose_runs(artefact, plan, store):
            print(f"{artefact.id}: its page stays as it was, since data of runs in it are not there now", flush=True)
        else:
            print(f"{artefact.id}: {papers.write_artefact(artefact, plan, store)}", flush=True)
    print(f"index: {papers.write_index(store, plan.datasets.scale)}")
    failed = [job for job in plan.jobs.values() if store.state(job) == "failed"]
    absent = [job for job in plan.jobs.values() if not job.present and store.state(job) != "done"]
    if failed:
        raise SkdError(
            f"{len(failed)} of {len(plan.jobs)} runs failed, the first with: {store.error(failed[0].address)}; the "
            "same command tries them again"
        )
    if absent:
        raise SkdError(f"{len(absent)} of {len(plan.jobs)} runs are left out: their data are not there (see above)")


def _print_artefacts(plan: Plan, store: Store) -> None:
    """One line for each artefact: what it is, how many runs it has and how far they are."""
    rows = [("artefact", "runs", "done", "numbers", "state", "what it shows")]
    for artefact in plan.artefacts:
        states = Counter(store.state(job, artefact.wanted) for job in plan.jobs_of(artefact))
        counts = (str(states.total()), str(states["done"]), str(len(artefact.numbers) or "-"))
        rows.append((artefact.id, *counts, _state_of(artefact, states, store), artefact.title))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # without wrapping, for people and for grep
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        f"{len(plan.artefacts)} artefacts at scale {plan.datasets.scale}, {len(plan.jobs)} different runs; make one "
        f"with: skd reproduce {plan.artefacts[0].id} --scale {plan.datasets.scale}"
    )


def _state_of(artefact: Artefact, states: Counter[State], store: Store) -> str:
    if states["done"] == states.total():
        return "written" if (store.artefact(artefact.id) / "index.html").is_file() else "ready"
    for state in ("failed", "begun", "trained"):
        if states[state]:
            return f"{states[state]} {state}"
    return "partly run" if states["done"] else "no data" if states["no data"] else "not run"


def _print_plan(plan: Plan, store: Store) -> None:
    estimator = papers.Estimator(store.root / "steps.json")

    def hours(jobs: Sequence[Job]) -> str:
        left = estimator.hours(job for job in jobs if store.network(job.address) is None)
        return f"{left:,.2f} of {estimator.hours(jobs):,.2f} {estimator.basis}"

    for artefact in plan.artefacts:
        print(describe(artefact, plan, store, hours(plan.needed(artefact))), flush=True)
    if len(plan.artefacts) > 1:
        jobs = list(plan.jobs.values())
        left = sum(store.network(job.address) is None for job in jobs)
        print(f"all: {len(jobs)} different runs, {left} to train, {hours(jobs)}")


def describe(artefact: Artefact, plan: Plan, store: Store, hours: str) -> str:
    """The plan of an artefact: runs, evaluations, published numbers, and the hours for the runs left and for all."""
    seeds, jobs = plan.seeds_of(artefact), plan.jobs_of(artefact)
    needed = {job.needs for job in jobs if job.needs} - set(jobs)
    lines = [
        f"{artefact.id}: {artefact.title}",
        f"  scale        {plan.datasets.scale}, {seeds} seed{'' if seeds == 1 else 's'}",
        f"  runs         {len(jobs)}" + (f", and {len(needed)} that these start from" if needed else ""),
        f"  evaluations  {', '.join(artefact.wanted)}",
        f"  published    {len(artefact.numbers)} numbers",
        f"  estimate     {hours}",
        *(f"  note         {note}" for note in artefact.notes),
    ]
    for entry in artefact.entries:
        own = plan.jobs_of(artefact, entry)
        lines += [f"  {entry.label}", f"      run        {_run_text(entry)}"]
        if own[0].needs is not None:
            lines.append(f"      starts at  {own[0].needs.address} ({own[0].needs.recipe.name})")
        states = Counter(store.state(job, artefact.wanted) for job in own)
        found = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"      seeds      {found}: {' '.join(job.address for job in own)}")
        numbers = [_number_text(row) for row in artefact.numbers if artefact.entry_of(row) is entry]
        lines += [f"      published  {'; '.join(numbers)}"] if numbers else []
    return "\n".join(lines)


def _run_text(entry: Entry) -> str:
    run = entry.run
    if isinstance(run, Training):
        changes = " ".join(f"{name}={value}" for name, value in run.changes.items())
        return f"recipes/{run.recipe}.py {changes}".rstrip()
    return f"detection/configs/{run.config}.yaml on recipes/{run.backbone.recipe}.py"


def _number_text(row: Published) -> str:
    words = " ".join(f"{name}={value}" for name, value in row.settings.items())
    return f"{row.label} {row.text}" + (f" ({words})" if words else "")
