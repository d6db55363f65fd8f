"""One of two training processes dies, hangs or fails; the other has to end by itself, and say so.

The processes are started one by one, as SLURM does, so no launcher ends them.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from skd_plugins import SkdError, replace
from skd_plugins.training import engine

from .common import TINY, Fork, Report, differing, launch, refused, state, tiny_data, wait_for

TIMEOUT = 8.0  # seconds that a process waits for another one
# What happens, to which of the two processes, and in which part of the training.
CASES = [
    ("killed", 1, "step"), ("killed", 0, "step"), ("hangs", 1, "step"), ("fails", 1, "step"), ("fails", 0, "step"),
    ("hangs", 0, "step"), ("killed", 1, "validate"), ("killed", 0, "checkpoint"), ("hangs", 0, "checkpoint"),
    ("raises", 1, "step"), ("raises", 0, "validate"), ("hangs", 1, "validate"),
]  # fmt: skip
# Where the fault comes about: the seventh step, in the middle of the second epoch, or in the second call of a part.
PARTS = {
    "step": (engine, "seed_step", 8), "validate": (engine, "validate", 2), "checkpoint": (engine.checkpoint, "save", 7),
}  # fmt: skip


def _faulty(what: str, part: str) -> Callable[[], None]:
    """What makes a process come to the fault."""
    place, name, first = PARTS[part]
    calls: list[int] = []

    def before() -> None:
        original = getattr(place, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            calls.append(1)
            if len(calls) == first:
                _act(what)
            return original(*args, **kwargs)

        setattr(place, name, wrapped)

    return before


def _act(what: str) -> None:
    print("the fault", flush=True)
    if what in ("killed", "hangs"):
        os.kill(os.getpid(), signal.SIGKILL if what == "killed" else signal.SIGSTOP)
    raise SkdError("image 3 of the data can't be decoded") if what == "fails" else RuntimeError("a bug")


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report, recipe, data = Report(), replace(TINY, timeout_minutes=TIMEOUT / 60), tiny_data()["beton"]
    for one in launch(2, recipe, data, folder / "whole"):
        done = one.end()
        assert done.returncode == 0, done.stderr
    expected = state(folder / "whole")
    for number, (what, rank, part) in enumerate(CASES[:count]):
        out = folder / f"case{number}"
        processes = launch(2, recipe, data, out, before=_faulty(what, part), where=rank)
        fine, story = _alone(processes, what, rank)
        state(out)  # it can be read
        if fine:
            done = [one.end() for one in launch(2, recipe, data, out, "--resume")]
            found = differing(state(out), expected)
            fine = all(one.returncode == 0 for one in done) and not found
            story = f"resumed: {found} {done[0].stderr[-500:]}"
        report.add(f"{what}: the other one ended, resumed bit-equal", fine, f"process {rank} {what} in {part}: {story}")
    return report


def _alone(processes: list[Fork], what: str, rank: int) -> tuple[bool, str]:
    """Whether the other process ends as it should after the fault."""
    faulty, other = processes[rank], processes[1 - rank]
    try:
        wait_for(lambda: faulty.log.exists() and "the fault" in faulty.log.read_text())
        begun = time.monotonic()
        done = other.end(TIMEOUT + 30)
        seconds = time.monotonic() - begun
        own = faulty.end(30).stderr if what in ("fails", "raises") else ""
    finally:
        for process in processes:
            process.kill()
    fine = refused(done.returncode, done.stderr, "--resume") and seconds < TIMEOUT + 20
    if what == "fails":
        fine = fine and own.count("error: ") == 1 and "image 3" in own and "Traceback" not in own
    return fine, f"code {done.returncode} after {seconds:.0f} s: {done.stderr[-500:]} ||| {own[-300:]}"
