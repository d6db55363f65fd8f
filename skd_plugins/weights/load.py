"""Networks from a run, a checkpoint, an exported file, a release or a published name."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.files import file_sha256
from ..common.typed import first_problem
from ..networks.create import build_network, constructor_errors, with_classes, with_classifier
from . import Which
from . import checkpoint as checkpoints
from .download import download
from .manifest import CARD_FILE, WEIGHTS_FILE, all_releases, check_name
from .upstream import create_published, is_published

_Positive = Annotated[FiniteFloat, Field(gt=0)]


class _Card(BaseModel):
    """Fields that a card must have, and the types of those it may have."""

    model: Annotated[str, Field(pattern=r"^(torchvision/|timm/)?[\w.-]+$", max_length=200)]  # never hf-hub:, local-dir:
    model_args: dict[str, Any]
    num_classes: Annotated[int, Field(gt=0, le=1_000_000)]
    name: str = ""
    classes: list[str] | None = None
    input_size: tuple[Literal[3], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (3, 1, 1)
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0, 0, 0)
    std: tuple[_Positive, _Positive, _Positive] = (1, 1, 1)
    crop_pct: _Positive = 1
    interpolation: str = ""
    color: Literal["RGB", "BGR"] = "RGB"
    recipe: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None


class NoCardError(SkdError):
    """The file can be read, but does not say which network its weights are for."""


def create_model(
    name: str, *, num_classes: int | None = None, pretrained: bool = False, classifier: str = "linear", **arguments: Any
) -> nn.Module:
    """A classifier from timm (``resnet152``), ours (``resnet18_cifar``), or torchvision's (``torchvision/resnet152``).

    Args:
        name: a timm model name, with or without a tag, one of `skd_plugins.networks`, or ``torchvision/NAME``; with
            `pretrained` also ``timm/NAME``, ``torchvision/NAME.WEIGHTS`` and our released weights
            (``resnet10t_digits.sdd``, see ``skd weights list``).
        num_classes: outputs of the classifier; None for the default of the pretrained weights or of the library.
        pretrained: load the weights of that name. If they have another number of classes than `num_classes`, the
            classifier is randomly initialised.
        classifier: ``linear``, the library's own; ``cosine``, which `adacos` needs; or ``mlp``, two layers with 512
            hidden units. The last two are always randomly initialised.
        arguments: passed to the library's constructor.
    """
    if not pretrained:
        return build_network(name, num_classes=num_classes, classifier=classifier, **arguments)
    with constructor_errors(name):
        if is_published(name):
            model, _ = create_published(name, **arguments)
        elif name in all_releases():
            model = _build(name, *read_weights(name), **arguments)
        else:
            model, _ = create_published(f"timm/{name}", num_classes=num_classes, **arguments)
    if num_classes is not None:
        model = with_classes(model, num_classes)
    return with_classifier(model, name, classifier)


def load_network(
    source: str | Path, *, which: Which = "last", ema: bool | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network in evaluation mode, and its card; for the arguments see `read_weights`."""
    if not Path(source).exists() and is_published(str(source)):
        model, card = create_published(str(source))
        return model.eval(), card
    weights, card = read_weights(source, which=which, ema=ema)
    try:
        model = _build(source, weights, card)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise SkdError(f"can't make the network that the card of {source} names: {error}") from None
    return model.eval(), card


def load_weights(source: str | Path) -> dict[str, Tensor]:
    """The plain timm or torchvision state dict: ``model.load_state_dict(load_weights("resnet10t_digits.sdd"))``."""
    return read_weights(source)[0]


def read_weights(
    source: str | Path, *, which: Which = "last", ema: bool | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The plain state dict and the card of a trained network.

    Args:
        source: a path: a run's folder, one of its checkpoints, an exported ``.safetensors`` file with its card beside
            it, or a release's folder. Or a name: of weights in the folder ``weights``, where ``skd export`` puts them,
            of a release (``skd weights list``), or of weights that timm or torchvision publish
            (``timm/resnet152.tv_in1k``, ``torchvision/resnet50.IMAGENET1K_V1``).
        which: which checkpoint of a run's folder.
        ema: the averaged weights or the raw ones; None takes the average if there is one.

    Raises:
        NoCardError: the checkpoint is not one of ours.
    """
    path = Path(source)
    if not path.exists():
        if is_published(str(source)):
            model, card = create_published(str(source))
            return model.state_dict(), card
        path = _named(str(source))
    path = weights_file(path, which)
    if path.suffix == ".safetensors":
        return _read_exported(path)
    state = checkpoints.read(path)
    if "card" not in state:
        raise NoCardError(f"{path} is not a checkpoint of skd_plugins: it has no card")
    if ema is None:
        ema = "state_dict_ema" in state
    elif ema and "state_dict_ema" not in state:
        raise SkdError(f"{path} has no averaged weights; train with ema_decay=0.9999, say, or export the raw ones")
    card = state["card"] | {"epoch": state["epoch"], "step": state["step"], "ema": ema}
    return state["state_dict_ema" if ema else "state_dict"], card


def weights_file(path: Path, which: Which) -> Path:
    """The file of weights in the folder of a run or a release; any other path as it is."""
    if not path.is_dir():
        return path
    return path / (WEIGHTS_FILE if (path / WEIGHTS_FILE).exists() else f"{which}.pt")


def load_into(model: nn.Module, weights: dict[str, Tensor], *, what: str) -> None:
    """Loads a state dict completely. If keys or shapes do not fit, the error counts them and lists the first."""
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": [
            f"{key} {list(weights[key].shape)} instead of {list(value.shape)}"
            for key, value in own.items()
            if key in weights and weights[key].shape != value.shape
        ],
    }
    texts = [f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in problems.items() if keys]
    if texts:
        raise SkdError(f"the weights of {what} do not fit {type(model).__name__}: {'; '.join(texts)}")
    model.load_state_dict(weights)


def _build(source: str | Path, weights: dict[str, Tensor], card: dict[str, Any], **arguments: Any) -> nn.Module:
    model = build_network(card["model"], num_classes=card["num_classes"], **(card["model_args"] | arguments))
    load_into(model, weights, what=str(source))
    return model


def _named(name: str) -> Path:
    """Finds the file of a weights name; a path is returned as it is."""
    if "/" in name or name.endswith((".pt", ".pth", ".pth.tar", ".safetensors")):
        return Path(name)
    check_name(name)
    path = Path("weights") / f"{name}.safetensors"
    if path.exists():
        return path
    if name in (releases := all_releases()):
        return download(releases[name])
    raise SkdError(
        f"there are no weights {name!r}: no such file or run's folder, no {path}, and no release of that name (see: "
        f"skd weights list). Train the recipe called {name}, then run: skd export RUN --out weights"
    )


def _read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    released = path.name == WEIGHTS_FILE and path.with_name(CARD_FILE).exists()
    card_path = path.with_name(CARD_FILE) if released else path.with_suffix(".json")
    try:
        content, weights = file_sha256(path), load_file(path)
        card: dict[str, Any] = json.loads(card_path.read_text())
        if released:  # the file is timm's and contains our card
            card = card.get("skd", {})
        _Card.model_validate(card)
    except FileNotFoundError as error:
        raise SkdError(f"{error.filename or path} does not exist (weights come with a card beside them)") from None
    except ValidationError as error:
        raise SkdError(f"{card_path} is not a weights card: {first_problem(error)}") from None
    except (SafetensorError, ValueError, AttributeError, OSError) as error:
        raise SkdError(f"{path} or its card is damaged: {error}") from None
    if card.get("sha256", content) != content:
        raise SkdError(f"{path} is damaged, or not the one that {card_path} is for (SHA-256 differs); export it again")
    return weights, card
