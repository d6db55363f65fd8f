"""A griffe extension: the sections ``Source:`` and ``Deviation:`` of our docstrings as what they are.

Their text begins on the line of their name, which griffe would take for the title of the box that it makes of them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_OURS = re.compile(r"^(Source|Deviation): (?=\S)", re.MULTILINE)


class Sections(griffe.Extension):
    """Puts the text of these sections on the next line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring:
            obj.docstring.value = _OURS.sub(r"\n\1:\n    ", obj.docstring.value)
