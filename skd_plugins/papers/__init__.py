"""Every table and figure of both papers: ``skd reproduce``.

`tables` says what each needs and what was published, `runs` trains and evaluates, `pages` writes tables, figures and
verdicts.
"""

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .pages.output import would_lose_runs as would_lose_runs
    from .pages.output import write_artefact as write_artefact
    from .pages.output import write_index as write_index
    from .runs.estimate import Estimator as Estimator
    from .runs.execute import commands as commands
    from .runs.execute import execute as execute

__getattr__ = lazy(__name__, __file__)
