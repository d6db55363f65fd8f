"""`skd write` and `skd reproduce`, killed at random moments: no half file under its name, and another call goes on.

One kill of each, Ctrl-C and dead writers: tests/test_ffcv_writer.py, tests/test_reproduce.py.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from skd_plugins.cli import main
from skd_plugins.data.beton.file import BetonFile

from .common import Fork, Report, tiny_data

WRITE = "write digits --out data --workers 1"
REPRODUCE = "reproduce sd-dropout/table1 --scale mini --jobs 1 --out runs"


def run(count: int, folder: Path) -> Report:
    """`count` kills: of four, three hit a writer and one a reproduction."""
    report, draw = Report(), random.Random(0)
    tiny_data()  # imports FFCV, so that a kill hits the writing and not the import
    for number in range(count):
        place = folder / f"kill{number}"
        place.mkdir()
        (_reproduce if number % 4 == 3 else _write)(report, place, draw)
    return report


def _skd(command: str, place: Path) -> Fork:
    return Fork(lambda: main(command.split()), place / "said.txt", place)


def _kill(command: str, place: Path, seconds: float, begun: str) -> str:
    """Kills a command and its children so many seconds after a file came that matches; what happened."""
    fork, deadline = _skd(command, place), time.monotonic() + 60
    while fork.process.is_alive() and time.monotonic() < deadline and not list(place.glob(begun)):
        time.sleep(0.02)
    time.sleep(seconds)
    return "killed" if fork.kill() else "ended before"


def _unreadable(files: list[Path], read: Callable[[Path], object]) -> str:
    for path in files:
        try:
            read(path)
        except Exception as error:
            return f"{path.name}: {error}"
    return ""


def _write(report: Report, place: Path, draw: random.Random) -> None:
    what = _kill(WRITE, place, draw.uniform(0, 1), "data/.*.part")
    half = _unreadable(list(place.glob("data/*.beton")), BetonFile)
    done = _skd(WRITE, place).end(400)
    whole = len(BetonFile(place / "data" / "train.beton")), len(BetonFile(place / "data" / "val.beton"))
    fine = not half and done.returncode == 0 and whole == (1000, 797)
    report.add(f"skd write, {what}", fine, f"{half} {whole} {done.stderr}")


def _reproduce(report: Report, place: Path, draw: random.Random) -> None:
    what = _kill(REPRODUCE, place, draw.uniform(0, 10), "runs/mini/runs/*/job.json")
    half = _unreadable(list(place.rglob("*.json")), lambda path: json.loads(path.read_text()))
    done = _skd(REPRODUCE, place).end(400)
    made = list(place.glob("runs/mini/artefacts/sd-dropout/table1/*.csv"))
    fine = not half and done.returncode == 0 and bool(made)
    report.add(f"skd reproduce, {what}", fine, f"{half} {made} {done.stderr}")
