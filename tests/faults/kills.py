"""`kill -9` at random moments; the continued training ends bit-equal to the one that was never interrupted.

The trainings are forked from this process, so that importing torch does not take longer than they do.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from skd_plugins import Recipe, train
from skd_plugins.training import engine

from .common import TINY, Report, differing, replace, tiny_data
from .ranks import free_port

PHASES = ("step", "checkpoint", "second name", "evaluation", "end of an epoch")
_FORK = multiprocessing.get_context("fork")


def run(count: int, folder: Path) -> Report:
    """`count` kills, by turns in every phase, from a folder and a `.beton`; every fourth time of two processes."""
    report, data, draw = Report(), tiny_data(folder), random.Random(0)
    expected: dict[tuple[str, int], dict[str, Any]] = {}
    for number in range(count):
        kind, world, phase = ("beton", "folder")[number % 2], 1 + (number % 4 == 3), PHASES[number % len(PHASES)]
        recipe = replace(TINY, method="cs_kd", ema_decay=0.9, timeout_minutes=0.5)
        if (kind, world) not in expected:
            whole = _finish(recipe, data[kind], folder / f"whole-{kind}-{world}", world)
            assert whole is not None, "the uninterrupted run failed"
            expected[kind, world] = whole
        out = folder / f"killed{number}"
        hit = _killed(recipe, data[kind], out, world, phase, draw)
        run_folder = out / "tiny.fault" / "seed0"
        unreadable = ""
        for path in run_folder.glob("*.pt"):
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                unreadable = f"{path.name}: {error}"
        found = _finish(recipe, data[kind], out, world)
        difference = "it did not end" if found is None else differing(found, expected[kind, world])
        fine = not unreadable and not difference
        report.add(f"killed in: {hit}", fine, f"{number} {kind}, {world} process(es): {unreadable} {difference}")
    return report


def _killed(recipe: Recipe, data: Path, out: Path, world: int, phase: str, draw: random.Random) -> str:
    """Starts a training and kills all its processes at some moment of a phase; returns the phase that was hit."""
    now = _FORK.Value(ctypes.c_int, -1)
    entered = _FORK.Value(ctypes.c_int, 0)
    processes = _start(recipe, data, out, world, now, entered, PHASES.index(phase))
    wanted = draw.randint(
        1, {"step": 12, "checkpoint": 12, "second name": 1, "evaluation": 3, "end of an epoch": 2}[phase]
    )
    deadline = time.monotonic() + 120
    while entered.value < wanted and any(process.is_alive() for process in processes):
        assert time.monotonic() < deadline, f"no {phase}"
    time.sleep(draw.uniform(0, 0.02))
    hit = now.value
    _kill(processes)
    return PHASES[hit] if hit >= 0 else "before the first step"


def _kill(processes: list[Any]) -> None:
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def _finish(recipe: Recipe, data: Path, out: Path, world: int) -> dict[str, Any] | None:
    """Trains to the end, from where it is; its last checkpoint."""
    processes = _start(recipe, data, out, world, None, None, -1)
    for process in processes:
        process.join(180)
    fine = all(process.exitcode == 0 for process in processes)
    _kill(processes)
    return torch.load(out / "tiny.fault" / "seed0" / "last.pt", weights_only=True) if fine else None


def _start(recipe: Recipe, data: Path, out: Path, world: int, now: Any, entered: Any, phase: int) -> list[Any]:
    port = free_port()
    out.mkdir(parents=True, exist_ok=True)
    arguments = [
        (recipe, data, out, rank, world, port, now if rank == 0 else None, entered, phase) for rank in range(world)
    ]
    processes = [_FORK.Process(target=_work, args=values) for values in arguments]
    for process in processes:
        process.start()
    return processes


def _work(
    recipe: Recipe, data: Path, out: Path, rank: int, world: int, port: int, now: Any, entered: Any, phase: int
) -> None:
    log = os.open(out / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if world > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    if now is not None:
        _note(engine, "seed_step", 0, now, entered, phase, stays=True)
        _note(engine.checkpoint, "save", 1, now, entered, phase)
        _note(engine.checkpoint, "keep_as", 2, now, entered, phase)
        _note(engine, "validate", 3, now, entered, phase)
        _note(engine.Progress, "validated", 4, now, entered, phase, stays=True)
    train(recipe, data=str(data), out=out, resume=True)


def _note(place: Any, name: str, number: int, now: Any, entered: Any, phase: int, *, stays: bool = False) -> None:
    """Makes a function note in shared memory that it is being called; it does what it does."""
    original: Callable[..., Any] = getattr(place, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        before, now.value = now.value, number
        if number == phase:
            entered.value += 1
        result = original(*args, **kwargs)
        if not stays:
            now.value = before
        return result

    setattr(place, name, noted)
