"""Networks: any timm or torchvision classifier, and the papers' own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import timm
import torch
import torchvision
from torch import nn

from ..common.errors import SkdError, first_line, unknown
from .classifiers import CLASSIFIERS, MLPClassifier

Classifier: TypeAlias = nn.Linear | nn.Conv2d | MLPClassifier
TIMMS_OWN = ("hf-hub:", "local-dir:")  # prefixes of names that timm resolves itself


def build_network(
    name: str, *, num_classes: int | None = None, classifier: str = "linear", **arguments: Any
) -> nn.Module:
    """A classifier without weights; for the arguments see `skd_plugins.create_model`."""
    with constructor_errors(name):
        if name.startswith("torchvision/"):
            if num_classes is not None:
                arguments["num_classes"] = num_classes
            model: nn.Module = torchvision.models.get_model(torchvision_name(name), weights=None, **arguments)
        else:
            model = timm.create_model(timm_name(name), num_classes=num_classes, **arguments)
    return with_classifier(model, name, classifier)


@contextmanager
def constructor_errors(name: str) -> Iterator[None]:
    """Turns a constructor's TypeError into `SkdError`."""
    try:
        yield
    except TypeError as error:
        raise SkdError(f"model {name!r} refuses an argument of model_args: {error}") from None


def timm_name(name: str) -> str:
    """The name as timm knows it. An unknown one raises `SkdError` with the nearest name."""
    name = name.removeprefix("timm/")
    if not name.startswith(TIMMS_OWN) and not timm.is_model(name.split(".")[0]):
        raise unknown("model", name, timm.list_models())
    return name


def torchvision_name(name: str) -> str:
    """The name as torchvision knows it. An unknown one raises `SkdError` with the nearest name."""
    name, known = name.removeprefix("torchvision/"), torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("torchvision model", name, known)
    return name


def with_classifier(model: nn.Module, name: str, classifier: str) -> nn.Module:
    """The network with another kind of classifier, randomly initialised; ``linear`` leaves the network as it is."""
    if classifier == "linear":
        return model
    if classifier not in CLASSIFIERS:
        raise unknown("classifier", str(classifier), ("linear", *CLASSIFIERS))
    head = classifier_of(model)
    if not isinstance(head, nn.Linear):
        raise SkdError(f"the classifier of {name!r} is a convolution; classifier={classifier!r} replaces linear ones")
    model.set_submodule(classifier_names(model)[0], CLASSIFIERS[classifier](head.in_features, head.out_features))
    return model


def with_classes(model: nn.Module, num_classes: int) -> nn.Module:
    """The network; its classifier is replaced by a random one if it has another number of outputs."""
    network: Any = model
    if hasattr(model, "reset_classifier"):
        if network.num_classes != num_classes:
            network.reset_classifier(num_classes)
        return model
    name, head = _last_linear(model)
    if head.out_features != num_classes:
        model.set_submodule(name, nn.Linear(head.in_features, num_classes))
    return model


def classifier_of(model: nn.Module) -> Classifier:
    """The one layer that turns pooled features into logits; an error if there are several, see `classifiers_of`."""
    heads = classifiers_of(model)
    if len(heads) > 1:
        raise SkdError(f"{type(model).__name__} ends in {len(heads)} classifiers, not in one; use another network")
    return heads[0]


def classifiers_of(model: nn.Module) -> list[Classifier]:
    """The layers that turn pooled features into logits: linear, 1 x 1 convolutions, or our MLP.

    In timm's networks they are ``get_classifier()``, or such layers inside it; in others, it is the last linear layer.
    Several are heads whose logits the network averages, as in a distilled DeiT: together they are one linear classifier
    of their inputs side by side. Layers that do not all give C outputs, or none, are an error.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if not callable(get_classifier):
        return [_last_linear(model)[1]]
    found = get_classifier()
    if isinstance(found, MLPClassifier):
        return [found]
    parts = found if isinstance(found, (tuple, list)) else [found]  # torch 2.8 compiles no `tuple | list`
    layers: list[Any] = [
        module
        for part in parts
        for module in (part.modules() if isinstance(part, nn.Module) else ())
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]
    if len({_outputs(layer) for layer in layers}) != 1 or (len(layers) > 1 and isinstance(found, nn.Sequential)):
        raise SkdError(
            f"{type(model).__name__} does not end in linear classifiers (found {type(found).__name__} with "
            f"{len(layers)} linear layers); use a network with a linear classifier"
        )
    return layers


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """The names of `classifiers_of` in the network."""
    heads = {id(head) for head in classifiers_of(model)}
    return tuple(name for name, module in model.named_modules() if id(module) in heads)


def num_classes_of(model: nn.Module) -> int:
    """C, the outputs of the network's classifiers."""
    return _outputs(classifiers_of(model)[0])


def num_features_of(model: nn.Module) -> int:
    """D, the inputs of the network's classifiers, of all together."""
    heads = classifiers_of(model)
    return sum(head.in_channels if isinstance(head, nn.Conv2d) else head.in_features for head in heads)


def _outputs(head: Classifier) -> int:
    return head.out_channels if isinstance(head, nn.Conv2d) else head.out_features


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear | MLPClassifier]:
    for kind in (MLPClassifier, nn.Linear):
        layers: list[Any] = [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
        if layers:
            return layers[-1]  # type: ignore[no-any-return]  # of this kind
    raise SkdError(f"{type(model).__name__} has no nn.Linear layer that could be its classifier")


@torch.no_grad()
def check_image_size(model: nn.Module, *sides: int) -> None:
    """Raises SkdError if the network can't take square images of these sides, before any data is read.

    One image of each goes through: each network fails in its own way, most of them in the middle of the first step.
    """
    training = model.training
    try:
        for side in sides:
            model.eval()(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise SkdError(
            f"image_size={side}: {type(model).__name__} can't take such images: {first_line(error)}"
        ) from None
    finally:
        model.train(training)
