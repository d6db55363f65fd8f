"""Self-contained HTML pages from the templates next to this file."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from ..common.files import jsonable, write_text


def write_page(path: Path, template: str | Path, **values: Any) -> None:
    """Renders a template, one here or a file elsewhere, with every value escaped and writes it atomically."""
    folders = [Path(template).parent, Path(__file__).with_name("templates")]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, plain=plain, breakable=breakable)
    text = environment.get_template(Path(template).name).render(**values)
    # UTF-8 can't hold the lone surrogates of a file name in another encoding: they become question marks.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as percent, or a dash for None and NaN."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}\u202f%"


def plain(value: Any) -> str:
    """A setting for a table: text as it is, anything else as JSON."""
    value = jsonable(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def breakable(name: str) -> Markup:
    """An escaped name that may be broken after a dot, an underscore or a slash to fit a narrow column."""
    return Markup(re.sub(r"([._/]+)(?=[A-Za-z])", r"\1<wbr>", str(escape(name))))


def data_uri(image: NDArray[np.uint8], side: int = 224) -> str:
    """An image ``[H, W, 3]`` or ``[H, W]`` as a ``data:`` address; larger ones than `side` are scaled down."""
    picture = Image.fromarray(image)
    kind = "png" if max(picture.size) <= 64 else "jpeg"  # JPEG would blur small images
    picture.thumbnail((side, side))  # by default twice what a grid cell shows, for dense screens
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=kind == "png", quality=85)  # PNG has no quality
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
