"""What each method is and costs, for ``skd list methods``."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch

from ..networks.build import build_network
from .method import create_method, get_method, list_methods, method_summary

NETWORK, CLASSES = "resnet50", 1000


class MethodRow(NamedTuple):
    """One method with its default arguments, on a ResNet-50 with 1,000 classes.

    Attributes:
        source: the docstring's first line.
        extra: parameters that only training needs.
        cost: of a step, see `Method.step_cost`; a teacher counts as a network like the student.
    """

    name: str
    source: str
    segments: tuple[str, ...]
    extra: int
    cost: float


def method_rows() -> list[MethodRow]:
    """All methods, made on the meta device so that nothing is allocated."""
    rows = []
    for name in list_methods():
        cls = get_method(name)
        with torch.device("meta"):
            model = build_network(NETWORK, num_classes=CLASSES, classifier=cls.classifier)
            needed: dict[str, Any] = {}
            if "teacher" in inspect.signature(cls.__init__).parameters:
                needed["teacher"] = build_network(NETWORK, num_classes=CLASSES)
            method = create_method(name, model, **needed)
        own = sum(parameter.numel() for parameter in model.parameters())
        extra = sum(parameter.numel() for parameter in method.parameters()) - own
        rows.append(MethodRow(name, method_summary(name), method.segments, extra, method.step_cost))
    return rows
