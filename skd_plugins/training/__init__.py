"""From a recipe to a trained network: `engine` is the loop, `build` makes its parts, `plan` is ``--dry-run``."""

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .engine import train as train
    from .plan import make_plan as make_plan
    from .plan import print_plan as print_plan

__getattr__ = lazy(__name__, __file__)
