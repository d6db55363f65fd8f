"""The recipes and the detection scripts: beside the package in a checkout, inside it in an installed one."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import tyro

from ..common.errors import SkdError, unknown
from ..recipe import Recipe

PARTS = ("recipes", "detection")
_PACKAGE = Path(__file__).parents[1]


def project() -> Path:
    """The folder with `PARTS`."""
    for folder in (_PACKAGE.parent, _PACKAGE / "_project"):
        if all((folder / part).is_dir() for part in PARTS):
            return folder
    raise SkdError(f"{_PACKAGE} has no recipes; install the wheel or a checkout of the project")


def init(folder: tyro.conf.Positional[Path]) -> None:
    """Copy the recipes and the detection scripts to a folder, where you can run and change them.

    Args:
        folder: gets recipes/ and detection/, which must not exist there yet.
    """
    for part in PARTS:
        if (folder / part).exists():
            raise SkdError(f"{folder / part} exists already; give another folder, or move it away")
    for part in PARTS:
        try:
            shutil.copytree(project() / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        except OSError as error:
            raise SkdError(f"{folder / part} can't be written: {error}") from None
        print(folder / part)


def train_detector(
    scripts: Path,
    config: str,
    weights: str,
    out: Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Trains, or continues, and evaluates a detector with ``train_net.py``; returns ``results.json``, COCO's metrics.

    Args:
        scripts: the folder ``detection`` of a project.
        config: name of a file in ``configs`` there, without ``.yaml``.
        weights: the backbone's, a file or a name.
        out: the detector's folder; ``output.txt`` in it has what the script prints.
        overrides: ``KEY VALUE KEY VALUE ...``.
    """
    out.mkdir(parents=True, exist_ok=True)
    output, results = out / "output.txt", out / "results.json"
    command = [sys.executable, str(scripts / "train_net.py"), "--config", str(scripts / "configs" / f"{config}.yaml")]
    command += ["--resume"] if (out / "last_checkpoint").exists() else []
    command += ["MODEL.TIMM.WEIGHTS", weights, "OUTPUT_DIR", str(out), *overrides]
    with output.open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})
    if done.returncode or not results.is_file():
        sys.stderr.write("".join(output.read_text().splitlines(keepends=True)[-20:]))
        raise SkdError(f"the training of the detector failed; all of its output is in {output}")
    return results


@cache
def recipe_of(name: str) -> Recipe:
    """The recipe of a file in ``recipes/``."""
    folder = project() / "recipes"
    path = folder / f"{name}.py"
    if not path.is_file():
        raise unknown("recipe", name, [file.stem for file in folder.glob("*.py")])
    return recipe_in(path)


def recipe_in(path: Path) -> Recipe:
    """The `recipe` of a script."""
    if not path.is_file():
        raise SkdError(f"{path} does not exist; a recipe is a Python file with a `recipe`")
    sys.path.insert(0, str(path.parent))  # recipes import the recipe they are based on
    try:
        found = runpy.run_path(str(path)).get("recipe")
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(found, Recipe):
        raise SkdError(f"{path} has no `recipe = Recipe(...)`")
    return found
