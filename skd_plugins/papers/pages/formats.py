"""Tables as Markdown, CSV and LaTeX."""

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
from ..tables.published import Published
from .verdicts import Result


@dataclass(frozen=True)
class Fact:
    """A number of a figure: what it is in words, and the number with its unit."""

    what: str
    text: str


@dataclass(frozen=True)
class Layout:
    """Results in rows and columns.

    Args:
        corner: heading of the rows' headings.
        rows: headings and cells; a cell has a number and those derived from it, or nothing.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Result, ...], ...]], ...]

    @property
    def header(self) -> list[str]:
        """The first line."""
        return [self.corner, *self.columns]

    @property
    def lines(self) -> list[list[str]]:
        """The other lines, with the paper's numbers in brackets."""
        return [[row, *("{} [{}]".format(*cell_texts(cell)) if cell else "" for cell in cells)]
                for row, cells in self.rows]  # fmt: skip


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
    words = {
        **row.settings, "metric": row.label, "method": row.method, "architecture": row.architecture,
        "dataset": row.dataset,
    }  # fmt: skip
    return ", ".join(words[name] for name in names if words.get(name))


def cell_texts(cell: Sequence[Result]) -> tuple[str, str]:
    """Ours and the paper's; derived numbers follow in parentheses."""
    ours = [f"({result.ours_text})" if number else result.ours_text for number, result in enumerate(cell)]
    theirs = [f"({one.published.text})" if number else one.published.text for number, one in enumerate(cell)]
    return " ".join(ours), " ".join(theirs)


def describe_number(row: Published) -> str:
    """What a number belongs to, in words."""
    words = [f"{name}={value}" for name, value in row.settings.items() if name != "derived"]
    return ", ".join([row.method, row.architecture, row.dataset, *words])


def markdown(
    artefact: Artefact, layout: Layout | None, results: Sequence[Result], facts: Sequence[Fact], lead: Sequence[str]
) -> str:
    """A page in Markdown: the laid-out table, every number with its verdict, notes."""
    lines = [f"# {artefact.id}: {artefact.title}", ""]
    for text in lead:
        lines += [text, ""]
    if layout is not None:
        lines += ["Ours, and the paper's in brackets.", "", *_grid(layout.header, layout.lines)]
        header = ["what", "metric", "ours", "runs", "paper", "difference", "verdict"]
        lines += ["", "## Every number", "", *_grid(header, [_fields(result) for result in results]), ""]
    if facts:
        lines += [*_grid(["what", "ours"], [[fact.what, fact.text] for fact in facts]), ""]
    if artefact.notes:
        lines += ["## What the paper leaves open", "", *(f"- {note}" for note in artefact.notes), ""]
    return "\n".join(lines)


def _fields(result: Result) -> list[str]:
    row = result.published
    ours = [result.ours_text, str(len(result.ours)), row.text, result.difference_text, result.verdict]
    return [describe_number(row), row.label, *ours]


def index_markdown(rows: Sequence[dict[str, Any]], store: Store, scale: str) -> str:
    """All artefacts, one line each, and what was run where."""
    records = [store.trained(path.parent.name) for path in sorted(store.root.glob("runs/*/trained.json"))]
    found = [record for record in records if record]
    hours = sum(float(record["seconds"]) for record in found) / 3600
    machines = Counter(str(record["machine"]) for record in found)
    where = "; ".join(f"{count} on {machine}" for machine, count in machines.items())
    lines = [f"Scale {scale}: {len(found)} trainings in {hours:.2f} hours of one process ({where})."]
    lines += [NOTICE] if scale == "mini" else []
    grid = []
    for row in rows:
        summary = row["written"]
        grid.append([
            row["id"], row["title"], f"{summary['done']} of {summary['runs']}" if summary else "–", row["outcome"],
        ])  # fmt: skip
    made = "made" if scale == "mini" else "against the paper"
    return "\n".join([*lines, "", *_grid(["artefact", "what it shows", "runs", made], grid, words=4), ""])


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A table whose first `words` columns are text, the others numbers."""
    lines = [header, [*["---"] * words, *["---:"] * (len(header) - words)], *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def comma_separated(results: Sequence[Result], facts: Sequence[Fact]) -> str:
    """The results of a table, or the facts of a figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if not results:
        writer.writerows([["what", "ours"], *([fact.what, fact.text] for fact in facts)])
        return buffer.getvalue()
    place = ("paper", "artefact", "setting", "method", "architecture", "dataset", "metric")
    writer.writerow([*place, "ours", "ours_std", "runs", "value", "std", "difference", "verdict"])
    for result in results:
        row = result.published
        ours, _, std = result.ours_text.partition(" ± ")
        texts = [text.replace("–", "") for text in (ours, std, result.difference_text)]
        writer.writerow([
            *(getattr(row, name) for name in place), *texts[:2], len(result.ours), row.value, row.std, texts[2],
            result.verdict,
        ])  # fmt: skip
    return buffer.getvalue()


def latex(artefact: Artefact, layout: Layout | None, facts: Sequence[Fact], lead: Sequence[str]) -> str:
    """A ``table`` for the package booktabs: the laid-out table with the paper's numbers in brackets."""
    if layout is not None:
        header, body = layout.header, layout.lines
    else:
        header, body = ["what", "ours"], [[fact.what, fact.text] for fact in facts]
    caption = " ".join([f"{artefact.title} ({artefact.id}). Ours, and the paper's in brackets.", *lead])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        rf"{' & '.join(map(tex, header))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(tex, row))} \\" for row in body),
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
