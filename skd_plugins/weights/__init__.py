"""Weights: export of trained networks, and loading them back."""

from .export import export_weights
from .load import NoCardError, load_network, read_weights
from .to_detectron2 import export_detectron2

__all__ = ["NoCardError", "export_detectron2", "export_weights", "load_network", "read_weights"]
