"""The 34 tables and figures as data, by their ids, and the published numbers."""

from ...common.errors import unknown
from . import lee2022, yun2020
from .artefact import Artefact

ARTEFACTS = {artefact.id: artefact for artefact in (*yun2020.ARTEFACTS, *lee2022.ARTEFACTS)}


def find_artefact(name: str) -> Artefact:
    """The artefact with this id; the error for an unknown id suggests the nearest one."""
    if name not in ARTEFACTS:
        raise unknown("artefact", name, ARTEFACTS)
    return ARTEFACTS[name]
