"""The recipes and the detection scripts: beside the package in a checkout, inside it in an installed one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def train_detector(
    scripts: Path,
    config: str,
    weights: str,
    out: Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Trains and evaluates a detector as a user does, or continues; its output goes to ``output.txt`` in its folder.

    Args:
        scripts: the folder ``detection`` of a project.
        config: name of a file in ``configs`` there, without ``.yaml``.
        weights: of the backbone, a file or a name.
        out: the detector's folder, made if it does not exist.
        overrides: ``KEY VALUE KEY VALUE ...``.
        environment: variables on top of this process's.

    Returns:
        COCO's metrics, ``results.json``.

    Raises:
        SkdError: it failed; the last lines of its output are on stderr.
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
