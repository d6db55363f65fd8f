"""Tables as Markdown, CSV and LaTeX. All of them, and the pages, have the texts of `Result`."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.mini import NOTICE
from ..runs.store import Store
from ..tables.artefact import Artefact
from ..tables.published import METRIC_NAMES, Published
from .verdicts import Result


@dataclass(frozen=True)
class Layout:
    """Results in rows and columns.

    Attributes:
        corner: what the rows' headings are.
        columns: headings.
        rows: headings and cells; a cell has a number and those derived from it, or nothing.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Result, ...], ...]], ...]


def lay_out(artefact: Artefact, results: Sequence[Result]) -> Layout:
    """The results in the artefact's rows and columns, in the order in which they first appear."""
    cells: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        place = (_heading(result.published, artefact.rows), _heading(result.published, artefact.columns))
        cells.setdefault(place, []).append(result)
    rows, columns = (tuple(dict.fromkeys(place[axis] for place in cells)) for axis in (0, 1))
    return Layout(
        corner=" / ".join(artefact.rows) + (f" \\ {artefact.columns[0]}" if artefact.kind == "grid" else ""),
        columns=columns,
        rows=tuple((row, tuple(tuple(cells.get((row, column), ())) for column in columns)) for row in rows),
    )


def _heading(row: Published, names: Sequence[str]) -> str:
    texts = [_word(row, name) for name in names]
    return ", ".join(text for text in texts if text)


def _word(row: Published, name: str) -> str:
    if name == "metric":
        # A derived number stands in the cell of what it is derived from.
        return METRIC_NAMES[row.metric]
    if name in ("method", "architecture", "dataset"):
        return str(getattr(row, name))
    return row.settings.get(name, "")


def cell_texts(cell: Sequence[Result]) -> tuple[str, str]:
    """Ours and the paper's, with what is derived in parentheses."""
    ours = [result.ours_text if not n else f"({result.ours_text})" for n, result in enumerate(cell)]
    theirs = [result.paper_text if not n else f"({result.paper_text})" for n, result in enumerate(cell)]
    return " ".join(ours) or "", " ".join(theirs) or ""


def what_of(row: Published) -> str:
    """What a number is of, in words."""
    words = [f"{name}={value}" for name, value in row.settings.items() if name != "derived"]
    return ", ".join([row.method, row.architecture, row.dataset, *words])


_TEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "†": r"\textdagger{}", "–": "--",
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A number of a figure, as it is shown.

    Attributes:
        what: in words.
        text: the number with its unit.
    """

    what: str
    text: str


def markdown(
    artefact: Artefact, layout: Layout | None, results: Sequence[Result], facts: Sequence[Fact], lead: Sequence[str]
) -> str:
    """A page in Markdown: the laid-out table, every number with its verdict, notes."""
    lines = [f"# {artefact.id}: {artefact.title}", ""]
    for text in lead:
        lines += [text, ""]
    if layout is not None:
        lines += ["Ours, and the paper's in brackets.", ""]
        lines += _grid([layout.corner, *layout.columns], [[row, *map(_both, cells)] for row, cells in layout.rows])
        lines += ["", "## Every number", ""]
        header = ["what", "metric", "ours", "runs", "paper", "difference", "verdict"]
        lines += _grid(header, [_fields(result) for result in results])
        lines.append("")
    if facts:
        lines += [*_grid(["what", "ours"], [[fact.what, fact.text] for fact in facts]), ""]
    if artefact.notes:
        lines += ["## What the paper leaves open", "", *(f"- {note}" for note in artefact.notes), ""]
    return "\n".join(lines)


def index_markdown(rows: Sequence[dict[str, Any]], store: Store, scale: str) -> str:
    """All artefacts, one line each, and what was run where."""
    records = [store.trained(path.parent.name) for path in sorted(store.root.glob("runs/*/trained.json"))]
    found = [record for record in records if record]
    hours = sum(float(record["seconds"]) for record in found) / 3600
    where = "; ".join(
        f"{count} on {machine}" for machine, count in Counter(str(record["machine"]) for record in found).items()
    )
    lines = [f"Scale {scale}: {len(found)} trainings in {hours:.2f} hours of one process ({where})."]
    lines += [NOTICE] if scale == "mini" else []
    grid = [[row["id"], row["title"], _runs(row["written"]), row["outcome"]] for row in rows]
    made = "made" if scale == "mini" else "against the paper"
    return "\n".join([*lines, "", *_grid(["artefact", "what it shows", "runs", made], grid, words=4), ""])


def _runs(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "–"
    return f"{summary['done']} of {summary['runs']}"


def comma_separated(results: Sequence[Result], facts: Sequence[Fact]) -> str:
    """The results, or the facts of a figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if results:
        writer.writerow([
            "paper", "artefact", "setting", "method", "architecture", "dataset", "metric", "ours", "ours_std", "runs",
            "value", "std", "difference", "verdict",
        ])  # fmt: skip
        for result in results:
            row = result.published
            ours, _, std = result.ours_text.partition(" ± ")
            writer.writerow([
                row.paper, row.artefact, row.setting, row.method, row.architecture, row.dataset, row.metric,
                ours.replace("–", ""), std, len(result.ours), row.value, row.std,
                result.difference_text.replace("–", ""), result.verdict,
            ])  # fmt: skip
    else:
        writer.writerow(["what", "ours"])
        writer.writerows([fact.what, fact.text] for fact in facts)
    return buffer.getvalue()


def latex(artefact: Artefact, layout: Layout | None, facts: Sequence[Fact], lead: Sequence[str]) -> str:
    """A ``table`` for the package booktabs: the laid-out table with the paper's numbers in brackets."""
    if layout is not None:
        header = [layout.corner, *layout.columns]
        body = [[row, *map(_both, cells)] for row, cells in layout.rows]
    else:
        header, body = ["what", "ours"], [[fact.what, fact.text] for fact in facts]
    caption = " ".join([f"{artefact.title} ({artefact.id}). Ours, and the paper's in brackets.", *lead])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        f"{' & '.join(map(_escape, header))} \\\\",
        r"\midrule",
        *(f"{' & '.join(map(_escape, row))} \\\\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _both(cell: Sequence[Result]) -> str:
    ours, theirs = cell_texts(cell)
    return f"{ours} [{theirs}]" if cell else ""


def _fields(result: Result) -> list[str]:
    row = result.published
    return [
        what_of(row), METRIC_NAMES[row.metric], result.ours_text, str(len(result.ours)), result.paper_text,
        result.difference_text, result.verdict,
    ]  # fmt: skip


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A table whose first `words` columns are text, the others numbers."""
    lines = [header, [*["---"] * words, *["---:"] * (len(header) - words)], *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _escape(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
