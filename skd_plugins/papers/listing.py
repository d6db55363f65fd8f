"""``skd reproduce --list`` and ``--dry-run``: what there is, and what would be done."""

from __future__ import annotations

from collections import Counter

from .artefact import Artefact, Entry, Training
from .estimate import Estimate
from .planning import Plan
from .published import METRIC_NAMES, Published
from .store import Store


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
