"""Several processes want the same thing at the same time: nothing is corrupted, and the loser is told.

Four processes and one download: tests/test_download.py. Workers of `skd reproduce`: tests/test_reproduce.py.
"""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from skd_plugins import main
from skd_plugins.cli import main as skd
from skd_plugins.data.beton.file import BetonFile
from skd_plugins.data.find import resolve_data

from .common import TINY, Fork, Report, differing, refused, replace, state, tiny_data


def run(count: int, folder: Path) -> Report:
    """`count` rounds, each a case by turns."""
    report = Report()
    for number in range(count):
        name, check = list(CASES.items())[number % len(CASES)]
        place = folder / f"round{number}"
        place.mkdir()
        report.add(name, *check(place))
    return report


def together(calls: list[Callable[[], object]], place: Path, **more: str) -> list[subprocess.CompletedProcess[str]]:
    """Makes calls at the same time."""
    forks = [Fork(call, place / f"said{number}.txt", place, **more) for number, call in enumerate(calls)]
    return [fork.end(240) for fork in forks]


def _one_cache(place: Path) -> tuple[bool, str]:
    recipe = replace(TINY, epochs=1, max_steps=3)
    calls = [partial(main, recipe, ["--out", f"out{n}"]) for n in range(2)]
    done = together(calls, place, SKD_CACHE=str(place / "cache"))
    fine = all(one.returncode == 0 for one in done)
    found = differing(state(place / "out0"), state(place / "out1")) if fine else ""
    return fine and not found, f"{found} {done}"


def _same_run(place: Path) -> tuple[bool, str]:
    call = partial(main, replace(TINY, epochs=8), ["--data", str(tiny_data()["beton"]), "--out", "out"])
    done = together([call] * 2, place)
    winner, loser = sorted(done, key=lambda one: one.returncode)
    # The loser may come when the winner is at work, or has saved already.
    told = any(refused(loser.returncode, loser.stderr, why) for why in ("another process", "holds a run already"))
    return winner.returncode == 0 and told and state(place / "out")["step"] == 40, str(done)


def _same_file(place: Path) -> tuple[bool, str]:
    command = ["write", "digits", "--out", "out", "--workers", "1", "--per-class"]
    done = together([partial(skd, [*command, count]) for count in ("5", "9")], place)
    whole = BetonFile(place / "out" / "train.beton")
    pixels = np.zeros((8, 8, 3), np.uint8)
    sound = all(whole.crop(n, np.array([0, 0, 8, 8]), False, pixels) is None for n in range(len(whole)))
    losers = [one for one in done if one.returncode]
    # One after the other is fine, too: the first may have ended before the second began to write.
    told = all(refused(one.returncode, one.stderr, "is being written by another process") for one in losers)
    left = [path.name for path in (place / "out").iterdir() if path.name.startswith(".")]
    return sound and told and len(losers) < 2 and len(whole) in (50, 90) and not left, f"{done} {len(whole)} {left}"


def _four(place: Path) -> tuple[bool, str]:
    done = together([_use_digits] * 4, place, SKD_CACHE=str(place / "cache"))
    files = {path.name for path in (place / "cache" / "digits-20").iterdir()}
    whole = {f"{half}.beton{ending}" for half in ("train", "val") for ending in ("", ".json", ".crc32")}
    return all(one.returncode == 0 for one in done) and files == whole, f"{done} {files}"


def _use_digits() -> None:
    """What is returned can be read at once, whatever the other processes are doing."""
    folder = resolve_data("digits", None)
    for half, count in (("train", 200), ("val", 797)):
        assert len(BetonFile(folder / f"{half}.beton")) == count


CASES = {
    "two trainings, one cache": _one_cache,
    "one training twice": _same_run,
    "one file written twice": _same_file,
    "one cache made by four": _four,
}
