"""A table's rows and columns, as the paper has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .artefact import Artefact
from .published import METRIC_NAMES, Published
from .results import Result


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
