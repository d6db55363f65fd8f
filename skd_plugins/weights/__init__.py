"""Weights: checkpoints, and networks from runs, files, released and published names; export of trained networks."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from ..common.lazy import lazy

Which: TypeAlias = Literal["last", "best"]  # of the checkpoints in a run's folder

if TYPE_CHECKING:
    from .export import export_detectron2 as export_detectron2
    from .export import export_weights as export_weights
    from .export import is_ours as is_ours
    from .export import write_config as write_config
    from .load import create_model as create_model
    from .load import load_network as load_network
    from .load import load_weights as load_weights
    from .load import read_weights as read_weights
    from .upstream import is_published as is_published
    from .upstream import published_file as published_file

__getattr__ = lazy(__name__, __file__)
