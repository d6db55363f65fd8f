"""Self-knowledge distillation for timm, torchvision, FFCV, accelerate and detectron2.

The public names. Each is imported on first use, so that ``import skd_plugins`` takes no time.
"""

from typing import TYPE_CHECKING

from .common.lazy import lazy

__version__ = "0.1.0"
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
    from .evaluation import Predictions, predict
    from .methods import Method, get_method, list_methods, register_method
    from .methods.task import MethodTask, create_task
    from .recipe import Recipe, replace
    from .training import train
    from .training.main import main
    from .weights import create_model, export_weights, load_weights

__getattr__ = lazy(__name__, __file__)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
