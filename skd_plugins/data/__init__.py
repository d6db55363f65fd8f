"""Data: writing `.beton` files, and loaders from them or from image folders."""

from .augment import Augmentation
from .beton.write import write_beton
from .datasets import open_source
from .loader import Loader, make_loader, open_data
from .order import TrainingOrder
from .sources import Source

__all__ = [
    "Augmentation",
    "Loader",
    "Source",
    "TrainingOrder",
    "make_loader",
    "open_data",
    "open_source",
    "write_beton",
]
