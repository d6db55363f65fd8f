"""The files of an artefact (Markdown, CSV, LaTeX, HTML, pictures), and the page that links all of them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.environment import environment
from ...common.errors import SkdError
from ...common.files import write_json, write_text
from ...evaluation.html import write_page
from ..runs.jobs import Plan
from ..runs.mini import NOTICE
from ..runs.store import Store
from ..tables.artefact import Artefact
from ..tables.catalog import ARTEFACTS
from .figures import grid_figure, save_figure
from .findings import FIGURES, Shown
from .formats import Fact, cell_texts, comma_separated, describe_number, index_markdown, latex, lay_out, markdown
from .verdicts import Result, results_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST_SVG = 400_000  # bytes; a page has the PNG instead of a larger one


def write_artefact(artefact: Artefact, plan: Plan, store: Store) -> Path:
    """Writes everything of an artefact from the runs that are complete; returns its page."""
    folder = store.artefact(artefact.id)
    folder.mkdir(parents=True, exist_ok=True)
    name = artefact.id.rpartition("/")[2]
    results = results_of(artefact, plan, store)
    layout = lay_out(artefact, results) if results else None
    drawn, facts, missing = _draw(artefact, plan, store, results)
    lead = _lead(artefact, plan, store, missing)
    pictures = _save(drawn, folder, name)
    write_text(folder / f"{name}.md", markdown(artefact, layout, results, facts, lead))
    write_text(folder / f"{name}.csv", comma_separated(results, facts))
    write_text(folder / f"{name}.tex", latex(artefact, layout, facts, lead))
    outcomes = Counter(result.outcome for result in results)
    complete = _complete(artefact, plan, store)
    summary = {
        "id": artefact.id,
        "title": artefact.title,
        "kind": artefact.kind,
        "numbers": len(results),
        "outcomes": dict(outcomes),
        "runs": len(plan.jobs_of(artefact)),
        "done": len(complete),
        "pictures": len(pictures),
        "seeds": plan.seeds_of(artefact),
        "complete": complete,
    }
    write_json(_summary_file(artefact.id, store), summary)
    page = folder / "index.html"
    write_page(
        page,
        "artefact.html.jinja",
        title=f"{artefact.id}: {artefact.title}",
        mini=plan.datasets.scale == "mini",
        notice=NOTICE,
        lead=lead,
        layout=layout,
        cells=[(row, [cell_texts(cell) for cell in cells]) for row, cells in layout.rows] if layout else [],
        results=[_row(result) for result in results],
        facts=facts,
        pictures=[(path.stem, _data_uri(path)) for path in pictures],
        notes=artefact.notes,
        files=[f"{name}.{kind}" for kind in ("md", "csv", "tex")]
        + [f"{path.stem}.{kind}" for path in pictures for kind in ("png", "svg")],
        derived=list(dict.fromkeys(result.published.label for result in results if result.published.derived)),
        outcomes=outcomes,
        versions=environment()["versions"],
        home="../../../index.html",
    )
    return page


def would_lose_runs(artefact: Artefact, plan: Plan, store: Store) -> bool:
    """Whether writing an artefact again would drop runs from it, because data have been moved since.

    Without the data the address of a run is unknown, so its results are not found.
    """
    if all(job.present for job in plan.jobs_of(artefact)):
        return False
    before = (_summary(artefact.id, store) or {}).get("complete", [])
    return not set(before) <= set(_complete(artefact, plan, store))


def write_index(store: Store, scale: str) -> Path:
    """Writes the page of all artefacts, with links to those that have been written, and ``index.md`` beside it."""
    rows: list[dict[str, Any]] = []
    for artefact in ARTEFACTS.values():
        summary = _summary(artefact.id, store)
        row = {"id": artefact.id, "title": artefact.title, "link": f"artefacts/{artefact.id}/"}
        rows.append({**row, "written": summary, "outcome": _outcome(summary, scale)})
    page = store.root / "index.html"
    write_page(
        page,
        "artefacts.html.jinja",
        title="Tables and figures of CS-KD and SD-Dropout",
        mini=scale == "mini",
        notice=NOTICE,
        rows=rows,
        versions=environment()["versions"],
    )
    write_text(store.root / "index.md", index_markdown(rows, store, scale))
    return page


def _summary_file(id: str, store: Store) -> Path:
    return store.artefact(id) / "summary.json"


def _summary(id: str, store: Store) -> dict[str, Any] | None:
    path = _summary_file(id, store)
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def _complete(artefact: Artefact, plan: Plan, store: Store) -> list[str]:
    return [job.address for job in plan.jobs_of(artefact) if store.state(job, artefact.wanted) == "done"]


def _outcome(summary: dict[str, Any] | None, scale: str) -> str:
    """What came of an artefact, in a few words."""
    if summary is None:
        return "not written"
    words = []
    outcomes, numbers, pictures = summary["outcomes"], summary["numbers"], summary["pictures"]
    missing = outcomes.get("not run", 0)
    if numbers and scale == "mini":
        words.append(f"{numbers - missing} of {numbers} numbers")
    elif numbers:
        words.append(f"{outcomes.get('agrees', 0)} agree, {outcomes.get('differs', 0)} differ, {missing} not run")
    if pictures:
        words.append(f"{pictures} picture{'' if pictures == 1 else 's'}")
    return ", ".join(words) or "nothing yet"


def _lead(artefact: Artefact, plan: Plan, store: Store, missing: str) -> list[str]:
    jobs, seeds = plan.jobs_of(artefact), plan.seeds_of(artefact)
    done = len(_complete(artefact, plan, store))
    texts = [NOTICE] if plan.datasets.scale == "mini" else []
    text = f"{done} of {len(jobs)} runs are complete ({seeds} seed{'' if seeds == 1 else 's'} of each training)."
    texts.append(text + (" ± is the sample standard deviation over seeds." if seeds > 1 else ""))
    if missing:
        texts.append(f"Not drawn: {missing}.")
    failed = {error for job in jobs if (error := store.error(job.address))}
    return texts + [f"A run failed: {error}" for error in sorted(failed)]


def _draw(
    artefact: Artefact, plan: Plan, store: Store, results: Sequence[Result]
) -> tuple[dict[str, Figure], list[Fact], str]:
    """Pictures by the suffix of their file, the numbers in them, and why there are none."""
    if artefact.kind == "grid" and any(result.ours for result in results):
        return _heat_maps(artefact, results), [], ""
    if not artefact.figure:
        return {}, [], ""
    shown = []
    for entry in artefact.entries:
        jobs = plan.jobs_of(artefact, entry)
        values = {name: [store.values(job.address, name) for job in jobs] for name in artefact.wanted}
        found = {name: [value for value in row if value is not None] for name, row in values.items()}
        if found != values:
            return {}, [], f"{entry.label} has not been run"
        folder = store.folder(jobs[0].address)
        shown.append(Shown(method=entry.method, folder=folder, data=jobs[0].data, values=found))
    try:
        return *FIGURES[artefact.figure](shown), ""
    except SkdError as error:
        return {}, [], str(error)


def _heat_maps(artefact: Artefact, results: Sequence[Result]) -> dict[str, Figure]:
    """Ours, and the paper's beside it."""
    (row,), (column,) = artefact.rows, artefact.columns
    rows, columns = (list(dict.fromkeys(one.published.settings[name] for one in results)) for name in (row, column))
    values = np.full((2, len(rows), len(columns)), np.nan)
    for one in results:
        words = one.published.settings
        place = rows.index(words[row]), columns.index(words[column])
        values[0][place], values[1][place] = one.mean if one.mean is not None else np.nan, one.published.number
    metric = results[0].published.label
    return {
        suffix: grid_figure(grid, rows, columns, labels=(row, column), title=f"{metric}: {whose}")
        for grid, suffix, whose in zip(values, ("-ours", "-paper"), ("ours", "the paper's"), strict=True)
    }


def _save(drawn: dict[str, Figure], folder: Path, name: str) -> list[Path]:
    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):  # there may have been more
        old.unlink()
    return [save_figure(figure, folder / f"{name}{suffix}") for suffix, figure in drawn.items()]


def _data_uri(png: Path) -> str:
    svg = png.with_suffix(".svg")
    path, kind = (svg, "svg+xml") if svg.stat().st_size <= _LARGEST_SVG else (png, "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _row(result: Result) -> dict[str, Any]:
    return {
        "what": describe_number(result.published),
        "metric": result.published.label,
        "ours": result.ours_text,
        "runs": len(result.ours),
        "paper": result.published.text,
        "difference": result.difference_text,
        "verdict": result.verdict,
        "outcome": result.outcome,
    }
