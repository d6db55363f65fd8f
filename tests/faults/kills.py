"""`kill -9` at random moments; the continued training ends bit-equal to the one that was never interrupted.

The trainings are forked from this process, so that importing torch does not take longer than they do.
"""

import ctypes
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import torch

from skd_plugins.training import engine

from .common import TINY, Report, differing, last, launch, replace, state, tiny_data, wait_for

# Functions that begin a phase; how often one is called in a training of three epochs; whether the phase lasts on.
PHASES: dict[str, tuple[Any, str, int, bool]] = {
    "step": (engine, "seed_step", 12, True),
    "checkpoint": (engine.checkpoint, "save", 12, False),
    "second name": (engine.checkpoint, "keep_as", 1, False),
    "evaluation": (engine, "validate", 3, False),
    "end of an epoch": (engine.Progress, "validated", 2, True),
}
RECIPE = replace(TINY, method="cs_kd", ema_decay=0.9, timeout_minutes=0.5)
_FORK = multiprocessing.get_context("fork")


class Watch:
    """What a training is doing, in memory shared with the one who kills it, who waits for a phase."""

    def __init__(self, phase: str) -> None:
        self.waits_for = list(PHASES).index(phase)
        self.now = _FORK.Value(ctypes.c_int, -1)
        self.entered = _FORK.Value(ctypes.c_int, 0)

    def install(self) -> None:
        """Makes the functions note that they are being called; they do what they do."""
        for number, (place, name, _, stays) in enumerate(PHASES.values()):
            setattr(place, name, self._noted(getattr(place, name), number, stays))

    def _noted(self, original: Any, number: int, stays: bool) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            before, self.now.value = self.now.value, number
            self.entered.value += number == self.waits_for
            result = original(*args, **kwargs)
            if not stays:
                self.now.value = before
            return result

        return noted


def run(count: int, folder: Path) -> Report:
    """`count` kills, by turns in every phase, from a folder and a `.beton`; every fourth time of two processes."""
    report, draw = Report(), random.Random(0)
    expected: dict[tuple[str, int], dict[str, Any]] = {}
    for number in range(count):
        kind, world, phase = ("beton", "folder")[number % 2], 1 + (number % 4 == 3), list(PHASES)[number % len(PHASES)]
        if (kind, world) not in expected:
            whole = _finish(kind, folder / f"whole-{kind}-{world}", world)
            assert whole is not None, "the uninterrupted run failed"
            expected[kind, world] = whole
        out = folder / f"killed{number}"
        hit = _killed(kind, out, world, phase, draw)
        unreadable = ""
        for path in last(out).parent.glob("*.pt"):
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                unreadable = f"{path.name}: {error}"
        found = _finish(kind, out, world)
        difference = "it did not end" if found is None else differing(found, expected[kind, world])
        fine = not unreadable and not difference
        report.add(f"killed in: {hit}", fine, f"{number} {kind}, {world} process(es): {unreadable} {difference}")
    return report


def _killed(kind: str, out: Path, world: int, phase: str, draw: random.Random) -> str:
    """Starts a training and kills all its processes at some moment of a phase; returns the phase that was hit."""
    watch = Watch(phase)
    trainings = launch(world, RECIPE, tiny_data()[kind], out, "--resume", before=watch.install)
    wanted = draw.randint(1, PHASES[phase][2])
    wait_for(lambda: watch.entered.value >= wanted or not any(one.process.is_alive() for one in trainings))
    time.sleep(draw.uniform(0, 0.02))
    hit = watch.now.value
    for training in trainings:
        training.kill()
    return list(PHASES)[hit] if hit >= 0 else "before the first step"


def _finish(kind: str, out: Path, world: int) -> dict[str, Any] | None:
    """Trains to the end, from where it is; its last checkpoint."""
    done = [process.end() for process in launch(world, RECIPE, tiny_data()[kind], out, "--resume")]
    return state(out) if all(one.returncode == 0 for one in done) else None
