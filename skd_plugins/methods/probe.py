"""A method on a tiny network, to check it before a script that is not ours loads anything."""

from typing import Any

import timm

from ..common.errors import SkdError
from .method import Method, create_method, get_method


def probe(method: str, arguments: dict[str, Any], script: str) -> Method:
    """Checks every argument, and shows which segments the method needs."""
    if get_method(method).classifier != "linear":
        raise SkdError(
            f"{method} needs a network with a {get_method(method).classifier} classifier, which {script} can't make; "
            "train it with a recipe"
        )
    network = timm.create_model("test_resnet", num_classes=2)
    if isinstance(arguments.get("teacher"), str):
        arguments = arguments | {"teacher": network}  # the real teacher has the real number of classes
    return create_method(method, network, **arguments)
