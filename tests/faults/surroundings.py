"""A machine that is set up oddly: it works, or the message says what to set."""

import functools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skd_plugins import main, replace

from .common import TINY, Fork, Report, differing, environment, python, refused, script, state, tiny_data, training
from .disk import CantMount, read_only

RECIPE = replace(TINY, epochs=2)


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    for name, case in list(CASES.items())[:count]:
        place = folder / name.replace(" ", "_").replace("/", "")
        place.mkdir()
        try:
            story = case(place)
        except CantMount as error:
            report.skipped.append(f"{name}: {error}")
            continue
        report.add(name, not story, story)
    return report


def _train(place: Path, data: Path, before: str = "", **more: str) -> str:
    """Empty if a training in a process of its own gives what it gives elsewhere."""
    file = script(RECIPE, place / "recipe.py", before)
    done = python(file, "--data", data, "--out", place / "out", env=environment(**more))
    return _same(done, place / "out", data.name)


def _same(done: subprocess.CompletedProcess[str], out: Path, kind: str) -> str:
    return differing(state(out), _plain(kind)) if done.returncode == 0 else _story(done)


@functools.cache
def _plain(kind: str) -> dict[str, Any]:
    """The result on a machine that is set up well."""
    with tempfile.TemporaryDirectory() as folder:
        done = training(RECIPE, tiny_data()[kind], Path(folder) / "out").end()
        assert done.returncode == 0, done.stderr
        return state(Path(folder) / "out")


def _story(done: subprocess.CompletedProcess[str]) -> str:
    return f"code {done.returncode}: {done.stderr}"


def _clock(place: Path) -> str:
    """Python's clock jumps by up to three years, both ways, every time it is asked."""

    def jumping() -> None:
        clock, draw = time.time, random.Random(0)
        time.time = lambda: clock() + draw.uniform(-1e8, 1e8)

    done = training(RECIPE, tiny_data()["folder"], place / "out", before=jumping).end()
    return _same(done, place / "out", "folder")


def _locale_c(place: Path) -> str:
    """C without Python's own way out of it: everything is ASCII."""
    copied = shutil.copytree(tiny_data()["folder"], place / "dätä öf digits" / "folder")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    return _train(place, copied, **ascii_only)


def _turkish(place: Path) -> str:
    """An application that speaks Turkish."""
    name = "tr_TR.UTF-8"
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", str(place / name)], capture_output=True)
    if not (place / name).exists():  # few machines have it
        raise CantMount("the Turkish locale can't be made here (localedef)")
    set_it = "import locale; locale.setlocale(locale.LC_ALL, ''); assert locale.getlocale()[0] == 'tr_TR'"
    return _train(place, tiny_data()["folder"], set_it, LOCPATH=str(place), LC_ALL=name)


def _paths(place: Path) -> str:
    odd = place / "a folder with spaces, ä, 数字 and 'quotes'"
    for kind, path in tiny_data().items():
        if story := _train(odd, shutil.copytree(path, odd / kind)):
            return story
        shutil.move(odd / "out", odd / f"{kind}-out")
    run_folder = odd / "folder-out" / RECIPE.name / "seed0"
    for arguments in (
        ("export", run_folder, "--out", odd / "weights"),
        ("evaluate", run_folder, "--data", odd / "folder"),
    ):
        done = python("-m", "skd_plugins.cli", *arguments)
        if done.returncode:
            return _story(done)
    return ""


def _home(place: Path) -> str:
    """A home that can't be written: fine where nothing has to be, and said where the digits have to be."""
    home = place / "home"
    home.mkdir()
    settings = {"HOME": str(home), "XDG_CACHE_HOME": "", "SKD_CACHE": ""}
    with read_only(home):
        done = training(RECIPE, tiny_data()["folder"], place / "out", **settings).end()
        if story := _same(done, place / "out", "folder"):
            return story
        digits = Fork(lambda: main(RECIPE, ["--out", str(place / "digits")]), place / "digits.txt", **settings).end()
        weights = python("-m", "skd_plugins.cli", "weights", "path", "resnet10t_digits.ce", env=environment(**settings))
    for done in (digits, weights):
        if not (refused(done.returncode, done.stderr) and "SKD_CACHE" in done.stderr):
            return _story(done)
    return ""


def _shared_memory(size: str, fits: bool) -> Callable[[Path], str]:
    def case(place: Path) -> str:
        """Batches of 38 MB from processes: a /dev/shm of 64 MB has one, and one of 16 MB has none."""
        file = script(replace(RECIPE, image_size=512, batch_size=48, max_steps=1), place / "recipe.py")
        inside = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", inside, "sh"]
        if subprocess.run([*command, "true"], capture_output=True).returncode:
            raise CantMount("a small /dev/shm can't be mounted here")
        command += [sys.executable, str(file), "--data", str(tiny_data()["folder"]), "--out", str(place / "out")]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=580)
        # The process that died has printed its own traceback, which nobody can prevent.
        last = (done.stderr.splitlines() or [""])[-1]
        said = done.returncode == 2 and last.startswith("error: ") and "--shm-size" in last and "workers" in last
        return "" if said or (fits and done.returncode == 0) else _story(done)

    return case


CASES: dict[str, Callable[[Path], str]] = {
    "clock jumps": _clock, "locale C, ASCII": _locale_c, "spaces and other letters": _paths, "home not writable": _home,
    "/dev/shm of 16 MB": _shared_memory("16m", False), "/dev/shm of 64 MB": _shared_memory("64m", True),
    "locale tr_TR.UTF-8": _turkish,
}  # fmt: skip
