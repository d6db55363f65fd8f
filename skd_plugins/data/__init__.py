"""Data, in reading order: `sources`, `beton` (files written and read), `order`, `augment`, `fetch`, `loader`.

`folder` reads image folders, `mixing` is mixup, `find` finds a recipe's data, `datasets` has the known sets.
"""

from .augment import Augmentation
from .beton.write import write_beton
from .datasets import open_source
from .loader import Loader, make_loader, open_data
from .order import Division, TrainingOrder
from .sources import Source

__all__ = [
    "Augmentation",
    "Division",
    "Loader",
    "Source",
    "TrainingOrder",
    "make_loader",
    "open_data",
    "open_source",
    "write_beton",
]
