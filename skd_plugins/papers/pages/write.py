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
from ..tables.catalog import artefacts
from ..tables.published import METRIC_NAMES
from .text_tables import Fact, Layout, cell_texts, comma_separated, index_markdown, latex, lay_out, markdown, what_of
from .verdicts import Result, results_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST_SVG = 400_000  # bytes that are put into a page; of larger ones the PNG is


def write_artefact(artefact: Artefact, plan: Plan, store: Store) -> Path:
    """Writes everything of an artefact from the runs that are complete; returns its page."""
    folder = store.artefact(artefact.id)
    folder.mkdir(parents=True, exist_ok=True)
    name = artefact.id.rpartition("/")[2]
    results = results_of(artefact, plan, store)
    layout = lay_out(artefact, results) if results else None
    drawn: dict[str, Figure] = {}
    facts: list[Fact] = []
    missing = ""
    try:
        if artefact.figure:
            drawn, facts = _draw(artefact, plan, store)
        elif artefact.kind == "grid" and any(result.ours for result in results):
            drawn = _heat_maps(artefact, results)
    except SkdError as error:
        missing = str(error)
    lead = _lead(artefact, plan, store, missing)
    pictures = _save(drawn, folder, name)
    write_text(folder / f"{name}.md", markdown(artefact, layout, results, facts, lead))
    write_text(folder / f"{name}.csv", comma_separated(results, facts))
    write_text(folder / f"{name}.tex", latex(artefact, layout, facts, lead))
    outcomes = Counter(result.outcome for result in results)
    jobs = plan.jobs_of(artefact)
    complete = _complete(artefact, plan, store)
    write_json(folder / "summary.json", {
        "id": artefact.id, "title": artefact.title, "kind": artefact.kind, "numbers": len(results),
        "outcomes": dict(outcomes), "runs": len(jobs), "done": len(complete), "pictures": len(pictures),
        "seeds": plan.seeds_of(artefact), "complete": complete,
    })  # fmt: skip
    page = folder / "index.html"
    write_page(
        page, "artefact.html.jinja", title=f"{artefact.id}: {artefact.title}", mini=plan.datasets.scale == "mini",
        notice=NOTICE, lead=lead, layout=layout, cells=_cells(layout), results=[_row(result) for result in results],
        facts=facts, pictures=[(path.stem, _data_uri(path)) for path in pictures], notes=artefact.notes, name=name,
        files=[f"{name}.md", f"{name}.csv", f"{name}.tex",
               *(f"{path.stem}.{kind}" for path in pictures for kind in ("png", "svg"))],
        derived=list(dict.fromkeys(METRIC_NAMES[one.published.metric] for one in results if one.published.derived)),
        outcomes=outcomes, versions=environment()["versions"], home="../../../index.html",
    )  # fmt: skip
    return page


def would_lose_runs(artefact: Artefact, plan: Plan, store: Store) -> bool:
    """Whether runs would vanish from an artefact that is written already, because data are not there (any more).

    Without the data the address of a run is not known, and so its results are not found.
    """
    if all(job.present for job in plan.jobs_of(artefact)):
        return False
    path = store.artefact(artefact.id) / "summary.json"
    before = json.loads(path.read_text()).get("complete", []) if path.is_file() else []
    return not set(before) <= set(_complete(artefact, plan, store))


def _complete(artefact: Artefact, plan: Plan, store: Store) -> list[str]:
    return [job.address for job in plan.jobs_of(artefact) if store.state(job, artefact.wanted) == "done"]


def write_index(store: Store, scale: str) -> Path:
    """Writes the page of all artefacts, with links to those that have been written, and ``index.md`` beside it."""
    rows: list[dict[str, Any]] = []
    for artefact in artefacts().values():
        path = store.artefact(artefact.id) / "summary.json"
        summary = json.loads(path.read_text()) if path.is_file() else None
        rows.append({
            "id": artefact.id, "title": artefact.title, "written": summary, "link": f"artefacts/{artefact.id}/",
            "outcome": _outcome(summary, scale),
        })  # fmt: skip
    page = store.root / "index.html"
    write_page(
        page, "artefacts.html.jinja", title="Tables and figures of CS-KD and SD-Dropout", mini=scale == "mini",
        notice=NOTICE, rows=rows, versions=environment()["versions"],
    )  # fmt: skip
    write_text(store.root / "index.md", index_markdown(rows, store, scale))
    return page


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
    jobs = plan.jobs_of(artefact)
    done = _complete(artefact, plan, store)
    seeds = plan.seeds_of(artefact)
    texts = [NOTICE] if plan.datasets.scale == "mini" else []
    texts.append(
        f"{len(done)} of {len(jobs)} runs are complete ({seeds} seed{'' if seeds == 1 else 's'} of each training)."
        + (" ± is the sample standard deviation over seeds." if seeds > 1 else "")
    )
    if missing:
        texts.append(f"Not drawn: {missing}.")
    failed = {error for job in jobs if (error := store.error(job.address))}
    texts += [f"A run failed: {error}" for error in sorted(failed)]
    return texts


def _draw(artefact: Artefact, plan: Plan, store: Store) -> tuple[dict[str, Figure], list[Fact]]:
    from .drawings import DRAWINGS, Shown

    shown = []
    for entry in artefact.entries:
        jobs = plan.jobs_of(artefact, entry)
        found = {name: [store.values(job.address, name) for job in jobs] for name in artefact.wanted}
        if any(value is None for values in found.values() for value in values):
            raise SkdError(f"{entry.label} has not been run")
        values = {name: [value for value in row if value is not None] for name, row in found.items()}
        folder = store.folder(jobs[0].address)
        shown.append(Shown(method=entry.method, folder=folder, data=jobs[0].data, values=values))
    return DRAWINGS[artefact.figure](shown)


def _heat_maps(artefact: Artefact, results: Sequence[Result]) -> dict[str, Figure]:
    """Ours, and the paper's beside it."""
    from .figures import grid_figure

    (row,), (column,) = artefact.rows, artefact.columns
    rows, columns = (list(dict.fromkeys(one.published.settings[name] for one in results)) for name in (row, column))
    values = np.full((2, len(rows), len(columns)), np.nan)
    for one in results:
        words = one.published.settings
        place = rows.index(words[row]), columns.index(words[column])
        values[0][place], values[1][place] = one.mean if one.mean is not None else np.nan, one.published.number
    metric = METRIC_NAMES[results[0].published.metric]
    return {
        suffix: grid_figure(grid, rows, columns, row_label=row, column_label=column, title=f"{metric}: {whose}")
        for grid, suffix, whose in zip(values, ("-ours", "-paper"), ("ours", "the paper's"), strict=True)
    }


def _save(drawn: dict[str, Figure], folder: Path, name: str) -> list[Path]:
    from .figures import save_figure

    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):  # of another number of examples
        old.unlink()
    return [save_figure(figure, folder / f"{name}{suffix}")[0] for suffix, figure in drawn.items()]


def _data_uri(png: Path) -> str:
    svg = png.with_suffix(".svg")
    path, kind = (svg, "svg+xml") if svg.stat().st_size <= _LARGEST_SVG else (png, "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _cells(layout: Layout | None) -> list[tuple[str, list[tuple[str, str]]]]:
    return [] if layout is None else [(row, [cell_texts(cell) for cell in cells]) for row, cells in layout.rows]


def _row(result: Result) -> dict[str, Any]:
    row = result.published
    return {
        "what": what_of(row), "metric": METRIC_NAMES[row.metric], "ours": result.ours_text, "runs": len(result.ours),
        "paper": result.paper_text, "difference": result.difference_text, "verdict": result.verdict,
        "outcome": result.outcome,
    }  # fmt: skip
