"""The project's recipes."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache

from ..errors import unknown
from ..project import project
from ..recipe import Recipe


@cache
def recipe_of(name: str) -> Recipe:
    """The recipe of a file in ``recipes/``.

    Raises:
        SkdError: there is no such file, or the package was installed without recipes.
    """
    folder = project() / "recipes"
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
