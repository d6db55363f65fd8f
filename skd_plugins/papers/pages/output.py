"""The files of an artefact (Markdown, CSV, LaTeX, HTML, pictures), and the page that links all of them."""

import base64
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...common.environment import versions
from ...common.errors import SkdError
from ...common.files import write_json, write_text
from ...evaluation.html import write_page
from ..runs.jobs import Plan
from ..runs.mini import NOTICE
from ..runs.store import Store, read_json
from ..tables import ARTEFACTS
from ..tables.artefact import Artefact
from .figure_data import FIGURES, Fact, Shown
from .figures import grid_figure, save_figure
from .results import Result, lay_out, results_of

_LARGEST_SVG = 400_000  # bytes; a page has the PNG instead of a larger one
_BRACKETS = "Ours, and the paper's in brackets."


def write_artefact(artefact: Artefact, plan: Plan, store: Store) -> Path:
    """Writes everything of an artefact from the runs that are complete; returns its page."""
    folder = store.artefact(artefact.id)
    name = folder.name
    results = results_of(artefact, plan, store)
    heading, rows = lay_out(artefact, results)
    drawn, facts, missing = _draw(artefact, plan, store, results)
    lead = _lead(artefact, plan, store, missing)
    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):  # an earlier version may have had more pictures
        old.unlink()
    pictures = [save_figure(figure, folder / f"{name}{suffix}") for suffix, figure in drawn.items()]
    cells = [(row, [_cell_texts(cell) for cell in cells]) for row, cells in rows.items()]
    table: list[Sequence[str]] = [("what", "ours"), *facts]
    if results:
        table = [heading]
        table += [[row, *(f"{ours} [{paper}]" if ours else "" for ours, paper in texts)] for row, texts in cells]
    every = [_describe(result) for result in results]
    write_text(folder / f"{name}.md", _markdown(artefact, table, every, lead))
    write_text(folder / f"{name}.csv", _comma_separated(results, facts))
    write_text(folder / f"{name}.tex", _latex(artefact, table, lead))
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
    write_json(folder / "summary.json", summary)
    page = folder / "index.html"
    write_page(
        page,
        "artefact.html.jinja",
        title=f"{artefact.id}: {artefact.title}",
        mini=plan.datasets.scale == "mini",
        lead=lead,
        heading=heading if results else None,
        cells=cells,
        results=[{**row, "outcome": result.outcome} for row, result in zip(every, results, strict=True)],
        facts=facts,
        pictures=[(path.stem, _data_uri(path)) for path in pictures],
        notes=artefact.notes,
        files=[f"{name}.{kind}" for kind in ("md", "csv", "tex")]
        + [f"{path.stem}.{kind}" for path in pictures for kind in ("png", "svg")],
        derived=list(dict.fromkeys(result.published.label for result in results if result.published.derived)),
        outcomes=outcomes,
        versions=versions(),
        home="../../../index.html",
    )
    return page


def would_lose_runs(artefact: Artefact, plan: Plan, store: Store) -> bool:
    """Whether writing an artefact again would drop runs from it, because data have been moved since.

    Without the data the address of a run is unknown, so its results are not found.
    """
    if all(job.present for job in plan.jobs_of(artefact)):
        return False
    before = (read_json(store.artefact(artefact.id) / "summary.json") or {}).get("complete", [])
    return not set(before) <= set(_complete(artefact, plan, store))


def _complete(artefact: Artefact, plan: Plan, store: Store) -> list[str]:
    return [job.address for job in plan.jobs_of(artefact) if store.state(job, artefact.wanted) == "done"]


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


def _cell_texts(cell: Sequence[Result]) -> tuple[str, str]:
    """Ours and the paper's; derived numbers follow in parentheses."""
    pairs = [(result.ours_text, result.published.text) for result in cell]
    pairs[1:] = [(f"({ours})", f"({paper})") for ours, paper in pairs[1:]]
    return " ".join(ours for ours, _ in pairs), " ".join(paper for _, paper in pairs)


def _describe(result: Result) -> dict[str, str]:
    """A number with its verdict, as a row of the list of every number."""
    row = result.published
    words = [f"{name}={value}" for name, value in row.settings.items() if name != "derived"]
    return {
        "what": ", ".join([row.method, row.architecture, row.dataset, *words]),
        "metric": row.label,
        "ours": result.ours_text,
        "runs": str(len(result.ours)),
        "paper": row.text,
        "difference": result.difference_text,
        "verdict": result.verdict,
    }


def _markdown(
    artefact: Artefact, table: Sequence[Sequence[str]], every: Sequence[dict[str, str]], lead: Sequence[str]
) -> str:
    lines = [f"# {artefact.id}: {artefact.title}", ""]
    for text in lead:
        lines += [text, ""]
    if every:
        lines += [_BRACKETS, "", *_grid(table), "", "## Every number", ""]
        lines += [*_grid([list(every[0]), *(list(row.values()) for row in every)]), ""]
    elif len(table) > 1:
        lines += [*_grid(table), ""]
    if artefact.notes:
        lines += ["## What the paper leaves open", "", *(f"- {note}" for note in artefact.notes), ""]
    return "\n".join(lines)


def _grid(table: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A table, heading first, whose first `words` columns are text and the others numbers."""
    header, *rows = table
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _comma_separated(results: Sequence[Result], facts: Sequence[Fact]) -> str:
    """The results of a table, or the facts of a figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if not results:
        writer.writerows([("what", "ours"), *facts])
        return buffer.getvalue()
    place = ("paper", "artefact", "setting", "method", "architecture", "dataset", "metric")
    writer.writerow([*place, "ours", "ours_std", "runs", "value", "std", "difference", "verdict"])
    for result in results:
        row = result.published
        ours, _, std = result.ours_text.partition(" ± ")
        ours, difference = (text.replace("–", "") for text in (ours, result.difference_text))
        numbers = ours, std, len(result.ours), row.value, row.std, difference
        writer.writerow([*(getattr(row, name) for name in place), *numbers, result.verdict])
    return buffer.getvalue()


def _latex(artefact: Artefact, table: Sequence[Sequence[str]], lead: Sequence[str]) -> str:
    """A ``table`` for the package booktabs."""
    caption = " ".join([f"{artefact.title} ({artefact.id}). {_BRACKETS}", *lead])
    header, *body = (rf"{' & '.join(map(tex, row))} \\" for row in table)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}",
        r"\toprule",
        header,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_TEX = str.maketrans({
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "†": r"\textdagger{}", "–": "--",
})  # fmt: skip


def tex(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return text.translate(_TEX)


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
    """Our heat map, and the paper's beside it."""
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


def _data_uri(png: Path) -> str:
    svg = png.with_suffix(".svg")
    path, kind = (svg, "svg+xml") if svg.stat().st_size <= _LARGEST_SVG else (png, "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write_index(store: Store, scale: str) -> Path:
    """Writes the page of all artefacts, with links to those that have been written, and ``index.md`` beside it."""
    rows: list[dict[str, Any]] = []
    for artefact in ARTEFACTS.values():
        summary = read_json(store.artefact(artefact.id) / "summary.json")
        row = {"id": artefact.id, "title": artefact.title, "link": f"artefacts/{artefact.id}/"}
        rows.append({**row, "written": summary, "outcome": _outcome(summary, scale)})
    page = store.root / "index.html"
    title, mini = "Tables and figures of CS-KD and SD-Dropout", scale == "mini"
    write_page(page, "artefacts.html.jinja", title=title, mini=mini, notice=NOTICE, rows=rows, versions=versions())
    write_text(store.root / "index.md", _index_markdown(rows, store, scale))
    return page


def _outcome(summary: dict[str, Any] | None, scale: str) -> str:
    """The outcome of an artefact, in a few words."""
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


def _index_markdown(rows: Sequence[dict[str, Any]], store: Store, scale: str) -> str:
    """All artefacts, one line each, and what was run where."""
    found = [record for path in sorted(store.root.glob("runs/*/trained.json")) if (record := read_json(path))]
    hours = sum(float(record["seconds"]) for record in found) / 3600
    machines = Counter(str(record["machine"]) for record in found)
    where = "; ".join(f"{count} on {machine}" for machine, count in machines.items())
    lines = [f"Scale {scale}: {len(found)} trainings in {hours:.2f} hours of one process ({where})."]
    lines += [NOTICE] if scale == "mini" else []
    table = [["artefact", "what it shows", "runs", "made" if scale == "mini" else "against the paper"]]
    for row in rows:
        runs = "{done} of {runs}".format(**row["written"]) if row["written"] else "–"
        table.append([row["id"], row["title"], runs, row["outcome"]])
    return "\n".join([*lines, "", *_grid(table, words=4), ""])
