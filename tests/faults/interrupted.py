"""`skd write` and `skd reproduce`, killed at random moments: no half file under its name, and another call goes on.

One kill of each, Ctrl-C and dead writers: tests/test_write.py, tests/test_reproduce.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from skd_plugins.data.beton.file import BetonFile

from .common import Report, environment

WRITE = ["-m", "skd_plugins.cli", "write", "digits", "--out", "data", "--workers", "1"]
REPRODUCE = [
    "-m",
    "skd_plugins.cli",
    "reproduce",
    "sd-dropout/table1",
    "--scale",
    "mini",
    "--jobs",
    "1",
    "--out",
    "runs",
]


def run(count: int, folder: Path) -> Report:
    """`count` kills: of four, three hit a writer and one a reproduction."""
    report, draw = Report(), random.Random(0)
    for number in range(count):
        place = folder / f"kill{number}"
        place.mkdir()
        (_reproduce if number % 4 == 3 else _write)(report, place, draw)
    return report


def _kill(arguments: list[str], place: Path, seconds: float, begun: str) -> bool:
    """Kills a command and its children so many seconds after a file came that matches; whether it hit."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=place,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not list(place.glob(begun)):
        time.sleep(0.02)
    time.sleep(seconds)
    hit = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if hit else None
    process.wait()
    return hit


def _again(arguments: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment(), capture_output=True, text=True, timeout=400
    )


def _write(report: Report, place: Path, draw: random.Random) -> None:
    hit = _kill(WRITE, place, draw.uniform(0, 4), "data/.*.part")
    half = ""
    for path in (place / "data").glob("*.beton"):
        try:
            BetonFile(path)
        except Exception as error:
            half = f"{path.name}: {error}"
    done = _again(WRITE, place)
    whole = len(BetonFile(place / "data" / "train.beton")), len(BetonFile(place / "data" / "val.beton"))
    fine = not half and done.returncode == 0 and whole == (1000, 797)
    report.add(f"skd write, {'killed' if hit else 'ended before'}", fine, f"{half} {whole} {done.stderr}")


def _reproduce(report: Report, place: Path, draw: random.Random) -> None:
    hit = _kill(REPRODUCE, place, draw.uniform(0, 10), "runs/mini/runs/*/job.json")
    half = ""
    for path in place.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            half = f"{path}: {error}"
    done = _again(REPRODUCE, place)
    made = list(place.glob("runs/mini/artefacts/sd-dropout/table1/*.csv"))
    fine = not half and done.returncode == 0 and bool(made)
    report.add(f"skd reproduce, {'killed' if hit else 'ended before'}", fine, f"{half} {made} {done.stderr}")
