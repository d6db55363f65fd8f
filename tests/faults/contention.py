"""Several processes want the same thing at the same time: nothing is corrupted, and who loses is told.

Four processes and one download: tests/test_download.py. Workers of `skd reproduce`: tests/test_reproduce.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from skd_plugins.data.beton.file import BetonFile

from .common import ROOT, TINY, Report, differing, environment, replace, script, tiny_data

CASES = ("two trainings, one cache", "one training twice", "one file written twice", "one cache made by four")


def run(count: int, folder: Path) -> Report:
    """`count` rounds, each a case by turns."""
    report = Report()
    data = tiny_data(folder)["beton"]
    for number in range(count):
        name = CASES[number % len(CASES)]
        place = folder / f"round{number}"
        place.mkdir()
        fine, story = CHECKS[name](place, data)
        report.add(name, fine, story)
    return report


def together(commands: list[list[str]], place: Path, **more: str) -> list[tuple[int, str]]:
    """Runs commands at the same time; exit codes and what they said on stderr."""
    processes = [
        subprocess.Popen(
            [sys.executable, *command], cwd=place, env=environment(**more), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        for command in commands
    ]  # fmt: skip
    errors = [process.communicate(timeout=240)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def _one_cache(place: Path, data: Path) -> tuple[bool, str]:
    recipe = replace(TINY, epochs=1, max_steps=3)
    file = str(script(recipe, place / "recipe.py"))
    done = together([[file, "--out", f"out{n}"] for n in range(2)], place, SKD_CACHE=str(place / "cache"))
    states = [torch.load(place / f"out{n}" / "tiny.fault" / "seed0" / "last.pt", weights_only=True) for n in range(2)]
    found = differing(*states)
    return all(code == 0 for code, _ in done) and not found, f"{found} {done}"


def _same_run(place: Path, data: Path) -> tuple[bool, str]:
    file = str(script(replace(TINY, epochs=8), place / "recipe.py"))
    command = [file, "--data", str(data), "--out", "out"]
    done = together([command, command], place)
    state = torch.load(place / "out" / "tiny.fault" / "seed0" / "last.pt", weights_only=True)
    codes = sorted(code for code, _ in done)
    told = [error for code, error in done if code == 2]
    # The loser may come when the winner is at work, or has saved already.
    fine = (
        codes == [0, 2] and ("another process" in told[0] or "holds a run already" in told[0]) and state["step"] == 40
    )
    return fine and "Traceback" not in told[0], str(done)


def _same_file(place: Path, data: Path) -> tuple[bool, str]:
    command = ["-m", "skd_plugins.cli", "write", "digits", "--out", "out", "--workers", "1", "--per-class"]
    done = together([[*command, "5"], [*command, "9"]], place)
    whole = BetonFile(place / "out" / "train.beton")
    crop = [np.zeros((8, 8, 3), np.uint8) for _ in range(len(whole))]
    sound = all(whole.crop(n, np.array([0, 0, 8, 8]), False, crop[n]) is None for n in range(len(whole)))
    losers = [error for code, error in done if code]
    # One after the other is fine, too: the first may have ended before the second began to write.
    told = all("is being written by another process" in error and "Traceback" not in error for error in losers)
    left = [path.name for path in (place / "out").iterdir() if path.name.startswith(".")]
    return sound and told and len(losers) < 2 and len(whole) in (50, 90) and not left, f"{done} {len(whole)} {left}"


def _four(place: Path, data: Path) -> tuple[bool, str]:
    code = "from skd_plugins.data.find import resolve_data; print(resolve_data('digits', None))"
    done = together([["-c", code]] * 4, place, SKD_CACHE=str(place / "cache"))
    files = sorted(path.name for path in (place / "cache" / "digits-20").iterdir() if path.suffix == ".beton")
    return all(code == 0 for code, _ in done) and files == ["train.beton", "val.beton"], f"{done} {files}"


CHECKS = dict(zip(CASES, (_one_cache, _same_run, _same_file, _four), strict=True))
assert (ROOT / "skd_plugins").is_dir()
