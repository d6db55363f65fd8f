"""Shared by the benchmarks: options, interleaved rounds, timm's scripts, photographs as image folders."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
TIMM = "a checkout of timm's repository (train.py and validate.py are in no package); default: $TIMM_REPOSITORY"


def options(doc: str | None, *, timm: bool = False) -> argparse.Namespace:
    """Parses ``--quick``, ``--json`` and, for benchmarks that run timm's scripts, ``--timm``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, help="file for the rows")
    if timm:
        parser.add_argument("--timm", type=Path, default=os.environ.get("TIMM_REPOSITORY"), help=TIMM)
    return parser.parse_args()


def interleaved(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, *, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round. Every other round runs in reverse, so that none always comes first.

    A contestant that measures itself returns its seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warmup, rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            own = contestants[name]()
            elapsed = own if isinstance(own, float) else time.perf_counter() - begin
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def timm_script(repository: Path | str | None, name: str) -> tuple[Path | None, str]:
    """The path of a script in timm's repository and "", or None and the reason."""
    if repository is None:
        return None, f"{name} is only in timm's repository: give --timm PATH or TIMM_REPOSITORY=PATH"
    path = Path(repository) / name
    return (path, "") if path.is_file() else (None, f"{path} is not there")


def run_script(script: Path, arguments: list[str]) -> str:
    """Runs a script as the main program, with the installed packages, not those beside it; returns its output."""
    code = f"import runpy, sys; sys.argv[0] = {str(script)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    return printed([sys.executable, "-c", code, *arguments])


def printed(command: list[str]) -> str:
    """Standard output and error of a command; a failure raises with their end."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed:\n{done.stdout[-3000:]}")
    return done.stdout


def photographs(root: Path, images: int, *, classes: int = 10, width: int = 500, height: int = 375) -> Path:
    """Writes an image folder of JPEGs, crops of scikit-learn's two photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    draw = np.random.default_rng(0)
    for index in range(images):
        picture = pictures[index % 2]
        left = int(draw.integers(0, picture.width - width + 1))
        top = int(draw.integers(0, picture.height - height + 1))
        folder = root / f"class{index % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + width, top + height)).save(folder / f"{index:05d}.jpg", quality=90)
    return root
