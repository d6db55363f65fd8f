"""Networks from a run, a checkpoint, an exported file, a release or a published name."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..common.errors import SkdError
from ..common.files import file_sha256
from ..common.typed import check_fields, read_json
from ..networks.create import (
    build_network,
    classifier_names,
    classifiers_of,
    constructor_errors,
    with_classes,
    with_classifier,
)
from ..recipe import Recipe
from . import Which
from . import checkpoint as checkpoints
from .download import download
from .manifest import CARD_FILE, WEIGHTS_FILE, all_releases, check_name
from .upstream import create_published, is_published

# Where timm and Lightning, and torchvision, keep averaged weights and raw ones.
_AVERAGED, _RAW = ("state_dict_ema", "model_ema"), ("state_dict", "model")
# Before the names of DDP's and averaged networks, of Lightning's, and of a `Method` in a LightningModule or a task.
_WRAPPERS = ("module.", "model.", "method.", "trainable_module.")

_Positive = Annotated[FiniteFloat, Field(gt=0)]


class _Recipe(BaseModel):
    name: str


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
    recipe: _Recipe | None = None
    environment: dict[str, Any] | None = None


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
    source: str | Path, *, which: Which = "last", ema: bool | None = None, recipe: Recipe | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network in evaluation mode, and its card.

    Args:
        source: as for `read_weights`, like `which` and `ema`.
        recipe: says which network weights without a card are of.
    """
    if recipe is None and not Path(source).exists() and is_published(str(source)):
        model, card = create_published(str(source))
        return model.eval(), card
    weights, found = read_any(source, which=which, ema=ema)
    if recipe and found:
        raise SkdError(f"{source} has a card that names its network; leave the recipe out")
    card = _card(recipe, weights, Path(source).name.partition(".")[0]) if recipe else _present(found, source)
    try:
        model = _build(source, weights, card)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise SkdError(f"can't make the network that the card of {source} names: {error}") from None
    return model.eval(), card


def load_weights(source: str | Path) -> dict[str, Tensor]:
    """The plain timm or torchvision state dict: ``model.load_state_dict(load_weights("resnet10t_digits.sdd"))``."""
    return read_any(source)[0]


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
    """
    weights, card = read_any(source, which=which, ema=ema)
    return weights, _present(card, source)


def read_any(
    source: str | Path, *, which: Which = "last", ema: bool | None = None
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """`read_weights`, also from files of other programs: timm's train.py, torchvision's, Lightning. Their card is None.

    The keys are the plain network's, without what DDP, torch.compile, averages and Lightning put before them.
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
        return _plain(state, path, ema), None
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


def load_body(model: nn.Module, weights: dict[str, Tensor], *, what: str) -> str:
    """`load_into`, but a classifier that is missing or of another shape starts at random; returns a note.

    It starts as torch's layers do. timm's EfficientNets begin with the larger the weights the fewer the classes are,
    +- 0.3 for 10 of them instead of 0.03, and the first steps then spoil the other layers.
    """
    try:
        load_into(model, weights, what=what)
        return ""
    except SkdError as error:
        heads = tuple(f"{name}." for name in classifier_names(model))
        body = {key: value for key, value in weights.items() if not key.startswith(heads)}
        own = {key: value for key, value in model.state_dict().items() if key.startswith(heads)}
        load_into(model, body | own, what=what)
        for classifier in classifiers_of(model):
            if isinstance(classifier, nn.Linear | nn.Conv2d):
                classifier.reset_parameters()
        return f"{error}; the rest fits, and the classifier starts at random"


def _plain(content: dict[str, Any], path: Path, ema: bool | None) -> dict[str, Tensor]:
    """The state dict in a file of another program, with the plain network's keys."""
    places = {None: _AVERAGED + _RAW, True: _AVERAGED, False: _RAW}[ema]
    state = next((content[place] for place in places if isinstance(content.get(place), dict)), content)
    strange = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange or not state:
        problem = f"no state dict: {strange[0]!r} is not a tensor" if strange else "empty"
        raise SkdError(f"{path} is {problem}")
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}  # torch.compile's
    while wrapper := next((word for word in _WRAPPERS if any(key.startswith(word) for key in state)), None):
        # What is beside the network, such as an average's n_averaged and Lightning's losses, is left out.
        state = {key.removeprefix(wrapper): value for key, value in state.items() if key.startswith(wrapper)}
    return state


def _present(card: dict[str, Any] | None, source: str | Path) -> dict[str, Any]:
    if card is None:
        raise SkdError(f"{source} has no card that names its network; skd evaluate takes it with --recipe FILE")
    return card


def _card(recipe: Recipe, weights: dict[str, Tensor], name: str) -> dict[str, Any]:
    """The card of weights of the recipe's network, which have their own number of classes."""
    heads = tuple(f"{name}." for name in classifier_names(build_network(recipe.model, **recipe.model_args)))
    sizes = [len(value) for key, value in weights.items() if key.startswith(heads) and value.ndim > 1]
    return {
        "name": name, "model": recipe.model, "model_args": recipe.model_args, "color": "RGB", "classes": None,
        "num_classes": sizes[-1] if sizes else recipe.num_classes or 1000, "recipe": None,
        "input_size": [3, recipe.image_size, recipe.image_size], "mean": recipe.mean, "std": recipe.std,
        "crop_pct": recipe.crop_pct, "interpolation": recipe.interpolation,
    }  # fmt: skip


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


def _read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    released = path.name == WEIGHTS_FILE and path.with_name(CARD_FILE).exists()
    card_path = path.with_name(CARD_FILE) if released else path.with_suffix(".json")
    try:
        content, weights = file_sha256(path), load_file(path)
    except FileNotFoundError:
        raise SkdError(f"{path} does not exist") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise SkdError(f"{path} is damaged: {error}") from None
    card = read_json(card_path, what="a weights card") if card_path.exists() else None
    if released and card:  # the file is timm's and may contain our card
        card = card.get("skd")
    if card is None:
        return _plain(weights, path, None), None
    check_fields(card, _Card, what=f"{card_path} is not a weights card")
    if card.get("sha256", content) != content:
        raise SkdError(f"{path} is damaged, or not the one that {card_path} is for (SHA-256 differs); export it again")
    return weights, {"name": path.stem, "classes": None, "recipe": None, "color": "RGB"} | card
