"""Self-knowledge distillation for timm, torchvision, FFCV, accelerate and detectron2.

The public names. Each is imported on first use, so that ``import skd_plugins`` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Method": "methods",
    "register_method": "methods",
    "get_method": "methods",
    "list_methods": "methods",
    "MethodTask": "methods.task",
    "create_task": "methods.task",
    "create_model": "weights.load",
    "make_loader": "data",
    "PairBatchSampler": "data.samplers",
    "CoupleBatchSampler": "data.samplers",
    "Recipe": "recipe",
    "main": "training.main",
    "replace": "recipe",
    "train": "training.engine",
    "predict": "evaluation.predictions",
    "Predictions": "evaluation.predictions",
    "export_weights": "weights",
    "load_weights": "weights",
    "SkdError": "common.errors",
}
__all__ = [
    "CoupleBatchSampler",
    "Method",
    "MethodTask",
    "PairBatchSampler",
    "Predictions",
    "Recipe",
    "SkdError",
    "create_model",
    "create_task",
    "export_weights",
    "get_method",
    "list_methods",
    "load_weights",
    "main",
    "make_loader",
    "predict",
    "register_method",
    "replace",
    "train",
]

if TYPE_CHECKING:
    from .common.errors import SkdError
    from .data import make_loader
    from .data.samplers import CoupleBatchSampler, PairBatchSampler
    from .evaluation.predictions import Predictions, predict
    from .methods import Method, get_method, list_methods, register_method
    from .methods.task import MethodTask, create_task
    from .recipe import Recipe, replace
    from .training.engine import train
    from .training.main import main
    from .weights import export_weights, load_weights
    from .weights.load import create_model


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'skd_plugins' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
