"""Every table and figure of both papers as data, the published numbers, and what makes them: ``skd reproduce``.

``cs_kd`` and ``sd_dropout`` say what each artefact needs, ``published`` reads the papers' numbers, ``planning`` turns
artefacts into jobs that are shared between them, ``work`` does one job, and ``reproduce`` is the command.
"""

from __future__ import annotations

from functools import cache

from ...common.errors import unknown
from . import lee2022, yun2020
from .artefact import Artefact


@cache
def artefacts() -> dict[str, Artefact]:
    """All 34 by their ids, in the order of the papers."""
    return {artefact.id: artefact for artefact in (*yun2020.ARTEFACTS, *lee2022.ARTEFACTS)}


def find_artefact(name: str) -> Artefact:
    """The artefact of an id.

    Raises:
        SkdError: there is none; the message has the nearest one.
    """
    known = artefacts()
    if name not in known:
        raise unknown("artefact", name, known)
    return known[name]
