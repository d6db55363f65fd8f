"""Weights: export of trained networks, and loading them back."""

from .export import export_weights
from .load import load_network, read_weights

__all__ = ["export_weights", "load_network", "read_weights"]
