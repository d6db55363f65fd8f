"""Self-contained HTML pages from the templates next to this file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import jsonable, write_text

if TYPE_CHECKING:
    from markupsafe import Markup


def write_page(path: Path, template: str, **values: Any) -> None:
    """Renders a template, every value escaped, and writes it atomically."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {"percent": percent, "plain": plain, "breakable": breakable}
    environment.filters.update(filters)
    # A lone surrogate (a file name that was not UTF-8) can't be written; a question mark can.
    text = environment.get_template(template).render(**values)
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as percent; a dash for what is not known."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}\u202f%"


def plain(value: Any) -> str:
    """A setting for a table: text as it is, anything else as JSON."""
    value = jsonable(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def breakable(name: str) -> Markup:
    """A name, escaped, that a narrow column breaks after a dot, an underscore or a slash."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._/]+)(?=[A-Za-z])", r"\1<wbr>", str(escape(name))))
