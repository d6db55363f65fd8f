"""A machine that is set up oddly: it works, or the message says what to set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .common import (
    TINY,
    CantMount,
    Report,
    differing,
    one_line,
    python,
    read_only,
    replace,
    script,
    tiny_data,
)

# Python's clock jumps by up to three years, both ways, every time it is asked.
CLOCK = """
import time, random
_clock, _draw = time.time, random.Random(0)
time.time = lambda: _clock() + _draw.uniform(-1e8, 1e8)
"""


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    data = tiny_data(folder)
    recipe = replace(TINY, epochs=2)
    done = python(script(recipe, folder / "plain.py"), "--data", data["folder"], "--out", folder / "plain")
    assert done.returncode == 0, done.stderr
    expected = torch.load(folder / "plain" / "tiny.fault" / "seed0" / "last.pt", weights_only=True)
    for name, case in list(CASES.items())[:count]:
        place = folder / name.replace(" ", "_").replace("/", "")
        place.mkdir()
        try:
            story = case(place, data, recipe, expected)
        except CantMount as error:
            report.skipped.append(f"{name}: {error}")
            continue
        report.add(name, not story, story)
    return report


def _same(out: Path, done: subprocess.CompletedProcess[str], expected: object) -> str:
    """Empty if the training gave what it gives elsewhere."""
    if done.returncode:
        return f"code {done.returncode}: {done.stderr}"
    return differing(torch.load(out / "tiny.fault" / "seed0" / "last.pt", weights_only=True), expected)


def _train(place: Path, data: Path, recipe: object, expected: object, before: str = "", **more: str) -> str:
    file = script(recipe, place / "recipe.py", before)  # type: ignore[arg-type]
    done = python(file, "--data", data, "--out", place / "out", env=os.environ | BASIC | more)
    return _same(place / "out", done, expected)


BASIC = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"}


def _clock(place: Path, data: dict[str, Path], recipe: object, expected: object) -> str:
    return _train(place, data["folder"], recipe, expected, CLOCK)


def _locale_c(place: Path, data: dict[str, Path], recipe: object, expected: object) -> str:
    """C without Python's own way out of it: everything is ASCII."""
    copied = shutil.copytree(data["folder"], place / "dätä öf digits")
    return _train(
        place, copied, recipe, expected, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii"
    )


def _turkish(encoding: str) -> Callable[..., str]:
    """An application that speaks Turkish; in ISO-8859-9 torch can't read what the system says (torch.cuda, ctypes)."""

    def case(place: Path, data: dict[str, Path], recipe: object, expected: object) -> str:
        name = f"tr_TR.{encoding}"
        made = subprocess.run(
            ["localedef", "-i", "tr_TR", "-f", encoding, str(place / name)], capture_output=True
        ) if shutil.which("localedef") else None  # fmt: skip
        if made is None or not (place / name).exists():  # few machines have it
            raise CantMount("the Turkish locale can't be made here (localedef)")
        set_it = "import locale; locale.setlocale(locale.LC_ALL, ''); assert locale.getlocale()[0] == 'tr_TR'"
        said = _train(place, data["folder"], recipe, expected, set_it, LOCPATH=str(place), LC_ALL=name)
        return "" if encoding != "UTF-8" and "error: " in said and "set LC_ALL=C.UTF-8" in said else said

    return case


def _paths(place: Path, data: dict[str, Path], recipe: object, expected: object) -> str:
    odd = place / "a folder with spaces, ä, 数字 and 'quotes'"
    odd.mkdir()
    story = ""
    for kind in ("beton", "folder"):
        copied = shutil.copytree(data[kind], odd / kind)
        story = story or _train(
            odd / kind, copied, recipe, expected if kind == "folder" else None or _of(kind, data, recipe, place)
        )
    run_folder = odd / "folder" / "out" / "tiny.fault" / "seed0"
    for arguments in (
        ("export", run_folder, "--out", odd / "weights"),
        ("evaluate", run_folder, "--data", odd / "folder"),
    ):
        done = python("-m", "skd_plugins.cli", *arguments)
        story = story or ("" if done.returncode == 0 else done.stderr)
    return story


def _of(kind: str, data: dict[str, Path], recipe: object, place: Path) -> object:
    """The plain result from the other kind of data."""
    done = python(script(recipe, place / "plain.py"), "--data", data[kind], "--out", place / "plain")  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return torch.load(place / "plain" / "tiny.fault" / "seed0" / "last.pt", weights_only=True)


def _home(place: Path, data: dict[str, Path], recipe: object, expected: object) -> str:
    """A home that can't be written: fine where nothing has to be, and said where the digits have to be."""
    home = place / "home"
    home.mkdir()
    settings = {"HOME": str(home), "XDG_CACHE_HOME": "", "SKD_CACHE": ""}
    with read_only(home):
        story = _train(place, data["folder"], recipe, expected, **settings)
        done = python(place / "recipe.py", "--out", place / "digits", env=os.environ | BASIC | settings)
        if not (one_line(done) and "SKD_CACHE" in done.stderr):
            story = story or f"digits: {done.returncode} {done.stderr}"
        weights = python(
            "-m", "skd_plugins.cli", "weights", "path", "resnet10t_digits.ce", env=os.environ | BASIC | settings
        )
        if not (one_line(weights) and "SKD_CACHE" in weights.stderr):
            story = story or f"weights: {weights.returncode} {weights.stderr}"
    return story


def _shared_memory(size: str, fits: bool) -> Callable[..., str]:
    def case(place: Path, data: dict[str, Path], recipe: object, expected: object) -> str:
        """Batches of 38 MB from processes: a /dev/shm of 64 MB has one, and one of 16 MB has none."""
        big = replace(recipe, image_size=512, batch_size=48, workers=2, max_steps=1)  # type: ignore[arg-type]
        file = script(big, place / "recipe.py")
        inside = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", inside, "sh"]
        if subprocess.run([*command, "true"], capture_output=True).returncode:
            raise CantMount("a small /dev/shm can't be mounted here")
        done = subprocess.run(
            [*command, sys.executable, str(file), "--data", str(data["folder"]), "--out", str(place / "out")],
            env=os.environ | BASIC, capture_output=True, text=True, timeout=580,
        )  # fmt: skip
        # The process that died has printed its own traceback, which nobody can prevent.
        last = (done.stderr.splitlines() or [""])[-1]
        said = done.returncode == 2 and last.startswith("error: ") and "--shm-size" in last and "workers" in last
        return "" if said or (fits and done.returncode == 0) else f"code {done.returncode}: {done.stderr}"

    return case


CASES: dict[str, Callable[..., str]] = {
    "clock jumps": _clock, "locale C, ASCII": _locale_c, "spaces and other letters": _paths, "home not writable": _home,
    "/dev/shm of 16 MB": _shared_memory("16m", False), "/dev/shm of 64 MB": _shared_memory("64m", True),
    "locale tr_TR.UTF-8": _turkish("UTF-8"), "locale tr_TR.ISO-8859-9": _turkish("ISO-8859-9"),
}  # fmt: skip
