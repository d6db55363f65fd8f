"""torchvision's own references/classification/train.py, unmodified, with a method and its batches put in."""

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .inject import run_with_method as run_with_method

__getattr__ = lazy(__name__, __file__)
