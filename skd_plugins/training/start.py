"""The weights that a training starts from."""

from collections.abc import Iterator

from torch import nn

from ..recipe import Recipe
from ..weights.load import load_body, read_any


def start(model: nn.Module, recipe: Recipe) -> Iterator[str]:
    """Loads the recipe's initial weights and yields what the log should say of them."""
    if not recipe.initial_weights:
        return
    source = recipe.initial_weights
    if source == "pretrained":
        source = recipe.model if recipe.model.startswith("torchvision/") else f"timm/{recipe.model}"
    weights, card = read_any(source)
    if note := load_body(model, weights, what=source):
        yield note
    for name in ("mean", "std"):
        theirs = list((card or {}).get(name, getattr(recipe, name)))
        if theirs != list(getattr(recipe, name)):
            yield f"{source} was trained on pixels of another {name}: {name}={str(theirs).replace(' ', '')} gives them"
