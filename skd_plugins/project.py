"""The recipes and the detection scripts: beside the package in a checkout, inside it in an installed one."""

from __future__ import annotations

import shutil
from pathlib import Path

from .errors import SkdError

PARTS = ("recipes", "detection")
_PACKAGE = Path(__file__).parent


def project() -> Path:
    """The folder with `PARTS`.

    Raises:
        SkdError: they were left out where the package was installed.
    """
    for folder in (_PACKAGE.parent, _PACKAGE / "_project"):
        if all((folder / part).is_dir() for part in PARTS):
            return folder
    raise SkdError(f"{_PACKAGE} has no recipes; install the wheel or a checkout of the project")


def copy_project(target: Path) -> list[Path]:
    """Copies the recipes and the detection scripts to a folder, to be run and changed there.

    Args:
        target: made if it does not exist; other files in it stay.

    Returns:
        The folders that were written.

    Raises:
        SkdError: one of them is there already; nothing is written then.
    """
    source = project()
    folders = [target / part for part in PARTS]
    for folder in folders:
        if folder.exists():
            raise SkdError(f"{folder} exists already; give another folder, or move it away")
    for part, folder in zip(PARTS, folders, strict=True):
        try:
            shutil.copytree(source / part, folder, ignore=shutil.ignore_patterns("__pycache__"))
        except OSError as error:
            raise SkdError(f"{folder} can't be written: {error}") from None
    return folders
