"""One of two training processes dies, hangs or fails; the other has to end by itself, and say so.

The processes are started one by one, as SLURM does, so no launcher ends them.
"""

import signal
import subprocess
import time
from pathlib import Path

from skd_plugins import replace

from .common import TINY, Report, differing, environment, launch, ranked, refused, script, start, state, tiny_data

TIMEOUT = 8.0  # seconds that a process waits for another one
# What happens, to which of the two processes, and in which part of the training.
CASES = [
    ("killed", 1, "step"), ("killed", 0, "step"), ("hangs", 1, "step"), ("fails", 1, "step"), ("fails", 0, "step"),
    ("hangs", 0, "step"), ("killed", 1, "validate"), ("killed", 0, "checkpoint"), ("hangs", 0, "checkpoint"),
    ("raises", 1, "step"), ("raises", 0, "validate"), ("hangs", 1, "validate"),
]  # fmt: skip
# Brings the fault about at the seventh step, in the middle of the second epoch, or in the second call of a part.
FAULT = """
import os, signal
import skd_plugins.training.engine as engine
from skd_plugins import SkdError
def act():
    print("the fault", flush=True)
    what = {what!r}
    if what == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if what == "hangs": os.kill(os.getpid(), signal.SIGSTOP)
    if what == "fails": raise SkdError("image 3 of the data can't be decoded")
    raise RuntimeError("a bug")
def at(original, first):
    calls = []
    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == first: act()
        return original(*args, **kwargs)
    return wrapped
if int(os.environ["RANK"]) == {rank}:
    if {part!r} == "step": engine.seed_step = at(engine.seed_step, 8)
    if {part!r} == "validate": engine.validate = at(engine.validate, 2)
    if {part!r} == "checkpoint": engine.checkpoint.save = at(engine.checkpoint.save, 7)
"""


def pair(file: Path, out: Path) -> list[subprocess.Popen[str]]:
    """Two processes of one training, with the fault."""
    processes = []
    for rank, variables in enumerate(ranked(2)):
        with log(out, rank).open("w") as said:
            options = {"env": environment(**variables), "stdout": said, "stderr": said}
            processes.append(start(file, "--data", tiny_data()["beton"], "--out", out, **options))
    return processes


def log(out: Path, rank: int) -> Path:
    return out.parent / f"{out.name}-{rank}.txt"


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report, recipe, data = Report(), replace(TINY, timeout_minutes=TIMEOUT / 60), tiny_data()["beton"]
    for training in launch(2, recipe, data, folder / "whole"):
        done = training.end()
        assert done.returncode == 0, done.stderr
    expected = state(folder / "whole")
    for number, (what, rank, part) in enumerate(CASES[:count]):
        out = folder / f"case{number}"
        faulty = script(recipe, folder / f"case{number}.py", FAULT.format(what=what, rank=rank, part=part))
        fine, story = _alone(faulty, out, what, rank)
        state(out)  # it can be read
        if fine:
            done = [training.end() for training in launch(2, recipe, data, out, "--resume")]
            found = differing(state(out), expected)
            fine = all(one.returncode == 0 for one in done) and not found
            story = f"resumed: {found} {done[0].stderr[-500:]}"
        report.add(f"{what}: the other one ended, resumed bit-equal", fine, f"process {rank} {what} in {part}: {story}")
    return report


def _alone(faulty: Path, out: Path, what: str, rank: int) -> tuple[bool, str]:
    """Whether the other process ends as it should after the fault."""
    processes = pair(faulty, out)
    try:
        deadline = time.monotonic() + 120
        while "the fault" not in log(out, rank).read_text():
            assert time.monotonic() < deadline, "the fault did not come about"
            time.sleep(0.05)
        begun = time.monotonic()
        try:
            code = processes[1 - rank].wait(TIMEOUT + 30)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - begun
        if what in ("fails", "raises"):
            processes[rank].wait(30)
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
    said, own = log(out, 1 - rank).read_text(), log(out, rank).read_text()
    fine = refused(code, said, "--resume") and seconds < TIMEOUT + 20
    if what == "fails":
        fine = fine and own.count("error: ") == 1 and "image 3" in own and "Traceback" not in own
    return fine, f"code {code} after {seconds:.0f} s: {said[-500:]} ||| {own[-300:]}"
