"""Every table and figure of both papers as data, the published numbers, and what makes them: ``skd reproduce``.

``cs_kd`` and ``sd_dropout`` say what each artefact needs, ``published`` reads the papers' numbers, ``planning`` turns
artefacts into jobs that are shared between them, ``work`` does one job, and ``reproduce`` is the command.
"""

from __future__ import annotations

from functools import cache

from ..errors import unknown
from .artefact import Artefact


@cache
def artefacts() -> dict[str, Artefact]:
    """All 34 by their ids, in the order of the papers."""
    from . import cs_kd, sd_dropout

    return {artefact.id: artefact for artefact in (*cs_kd.ARTEFACTS, *sd_dropout.ARTEFACTS)}


def find_artefact(name: str) -> Artefact:
    """The artefact of an id.

    Raises:
        SkdError: there is none; the message has the nearest one.
    """
    known = artefacts()
    if name not in known:
        raise unknown("artefact", name, known)
    return known[name]
