"""What each method is and costs, for ``skd list methods``."""

import inspect
from typing import Any, NamedTuple

import torch

from ..networks.create import build_network
from .method import create_method, get_method, list_methods

NETWORK, CLASSES = "resnet50", 1000


class MethodRow(NamedTuple):
    """One method with its default arguments, on a ResNet-50 with 1,000 classes."""

    name: str
    source: str  # the docstring's first line
    segments: tuple[str, ...]
    extra: int  # parameters that only training needs
    cost: float  # see `Method.step_cost`; a teacher counts as a network like the student


def method_rows() -> list[MethodRow]:
    """All methods, made on the meta device so that nothing is allocated."""
    rows = []
    for name in list_methods():
        cls = get_method(name)
        needed: dict[str, Any] = {}
        with torch.device("meta"):
            model = build_network(NETWORK, num_classes=CLASSES, classifier=cls.classifier)
            if "teacher" in inspect.signature(cls.__init__).parameters:
                needed["teacher"] = build_network(NETWORK, num_classes=CLASSES)
            method = create_method(name, model, **needed)
        own, all_of_it = (sum(p.numel() for p in module.parameters()) for module in (model, method))
        source = (inspect.getdoc(cls) or "").splitlines()[0]
        rows.append(MethodRow(name, source, method.segments, all_of_it - own, method.step_cost))
    return rows
