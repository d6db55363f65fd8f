"""The project's recipes, which lie beside the package in a checkout."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

from ..errors import SkdError, unknown
from ..recipe import Recipe

CHECKOUT = Path(__file__).parents[2]


@cache
def recipe_of(name: str) -> Recipe:
    """The recipe of a file in ``recipes/``.

    Raises:
        SkdError: the package is not in a checkout of the project, or there is no such file.
    """
    folder = CHECKOUT / "recipes"
    if not folder.is_dir():
        raise SkdError(f"the papers' settings are recipes of the project, and {folder} is not there; run in a checkout")
    path = folder / f"{name}.py"
    if not path.is_file():
        raise unknown("recipe", name, [file.stem for file in folder.glob("*.py")])
    spec = importlib.util.spec_from_file_location(f"skd_recipe_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))  # recipes import the recipe they differ from
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    recipe: Recipe = module.recipe
    return recipe
