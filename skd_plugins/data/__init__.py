"""Data, in reading order: `sources`, `beton` (files written and read), `order`, `augment`, `images`, `loader`.

`policy` has further augmentation, `prefetch` the threads and processes, `mixup` mixes
images, `find` finds a recipe's data, `datasets` has the known sets.
"""

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .augment import Augmentation as Augmentation
    from .beton.write import write_beton as write_beton
    from .datasets import open_source as open_source
    from .loader import Loader as Loader
    from .loader import make_loader as make_loader
    from .loader import open_data as open_data
    from .order import Division as Division
    from .order import TrainingOrder as TrainingOrder
    from .sources import Source as Source

__getattr__ = lazy(__name__, __file__)
