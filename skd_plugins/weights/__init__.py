"""Weights: checkpoints, and networks from runs, files, released and published names; export of trained networks."""

from .export import export_detectron2, export_weights
from .load import create_model, load_network, load_weights, read_weights

__all__ = ["create_model", "export_detectron2", "export_weights", "load_network", "load_weights", "read_weights"]
