"""Shared by the benchmarks: options, processes, interleaved rounds, timm's scripts, photographs as image folders."""

import argparse
import json
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


def options(doc: str | None, *, timm: bool = False, rounds: int | None = None) -> argparse.Namespace:
    """Parses ``--quick``, ``--json`` and, where a benchmark has a use for them, ``--timm`` and ``--rounds``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, help="file for the rows")
    if timm:
        parser.add_argument("--timm", type=Path, default=os.environ.get("TIMM_REPOSITORY"), help=TIMM)
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    return parser.parse_args()


def run(main: Callable[[], None], measure: Callable[..., Any]) -> None:
    """Runs a benchmark, or what `start` started: its measurement, whose result is the last line."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("["):
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()


def start(*arguments: Any, **variables: str) -> subprocess.Popen[str]:
    """Starts the benchmark's measurement in a process of its own."""
    command = [sys.executable, sys.argv[0], json.dumps(arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=os.environ | variables, text=True, **pipes)


def result(process: subprocess.Popen[str]) -> Any:
    """What the measurement found."""
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors[-3000:])
    return json.loads(output.splitlines()[-1])


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


def photographs(root: Path, images: int, size: tuple[int, int] = (500, 375)) -> Path:
    """Writes JPEGs of a width and height in ten classes: crops of scikit-learn's two photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures, enlarge = [Image.fromarray(picture) for picture in load_sample_images().images], size[0] / 500
    if enlarge > 1:
        larger = round(640 * enlarge), round(427 * enlarge)
        pictures = [picture.resize(larger, Image.Resampling.BICUBIC) for picture in pictures]
    draw = np.random.default_rng(0)
    for index in range(images):
        picture = pictures[index % 2]
        left, top = (int(draw.integers(0, a - b + 1)) for a, b in zip(picture.size, size, strict=True))
        crop = picture.crop((left, top, left + size[0], top + size[1]))
        if enlarge > 1:  # an enlarged picture alone would be easier to decode than a photograph of that size
            noise = draw.normal(0, 4, (*crop.size[::-1], 1))
            crop = Image.fromarray((np.asarray(crop) + noise).clip(0, 255).astype(np.uint8))
        folder = root / f"class{index % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        crop.save(folder / f"{index:05d}.jpg", quality=90)
    return root
