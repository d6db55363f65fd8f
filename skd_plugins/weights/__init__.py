"""Weights: export of trained networks, and loading them, released and published ones."""

from .export import export_weights
from .load import NoCardError, load_network, load_weights, read_weights
from .to_detectron2 import export_detectron2

__all__ = [
    "NoCardError",
    "export_detectron2",
    "export_weights",
    "load_network",
    "load_weights",
    "read_weights",
]
