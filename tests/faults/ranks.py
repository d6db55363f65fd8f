"""One of two training processes dies, hangs or fails; the other has to end by itself, and say so.

The processes are started one by one, as SLURM does, so no launcher ends them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from .common import TINY, Report, differing, environment, replace, script, tiny_data

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
if int(os.environ["RANK"]) == {rank} and "FAULT" in os.environ:
    if {part!r} == "step": engine.seed_step = at(engine.seed_step, 8)
    if {part!r} == "validate": engine.validate = at(engine.validate, 2)
    if {part!r} == "checkpoint": engine.checkpoint.save = at(engine.checkpoint.save, 7)
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(
    recipe: Path, data: Path, out: Path, *arguments: str, other_out: Path | None = None, **more: str
) -> list[subprocess.Popen[str]]:
    """Two processes of one training; the second can have another folder, as on a machine that does not share it."""
    port = str(free_port())
    processes = []
    for rank in range(2):
        settings = environment(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port, **more,
        )  # fmt: skip
        log = (out.parent / f"{out.name}-{rank}.txt").open("w")
        command = [sys.executable, str(recipe), "--data", str(data)]
        command += ["--out", str(other_out if rank and other_out else out), *arguments]
        processes.append(subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT, text=True))
    return processes


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    data = tiny_data(folder)["beton"]
    recipe = replace(TINY, epochs=3, timeout_minutes=TIMEOUT / 60)
    whole = folder / "whole"
    for process in start(script(recipe, folder / "whole.py"), data, whole):
        assert process.wait(180) == 0, (folder / "whole-0.txt").read_text()
    expected = torch.load(whole / "tiny.fault" / "seed0" / "last.pt", weights_only=True)
    for number, (what, rank, part) in enumerate(CASES[:count]):
        name = f"process {rank} {what} in {part}"
        out = folder / f"case{number}"
        faulty = script(recipe, folder / f"case{number}.py", FAULT.format(what=what, rank=rank, part=part))
        processes = start(faulty, data, out, FAULT="1")
        log = [folder / f"case{number}-{r}.txt" for r in range(2)]
        try:
            _wait(lambda log=log, rank=rank: "the fault" in log[rank].read_text(), 120)
            begun, other = time.monotonic(), processes[1 - rank]
            try:
                code = other.wait(TIMEOUT + 30)
            except subprocess.TimeoutExpired:
                code = None
            seconds, said = time.monotonic() - begun, log[1 - rank].read_text()
            own = log[rank].read_text()
            if what in ("fails", "raises"):
                processes[rank].wait(30)
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        error = [line for line in said.splitlines() if line.startswith("error: ")]
        fine = code == 2 and len(error) == 1 and "--resume" in error[0] and "Traceback" not in said
        fine = fine and seconds < TIMEOUT + 20
        if what == "fails":
            fine = fine and own.count("error: ") == 1 and "image 3" in own and "Traceback" not in own
        checkpoint = out / "tiny.fault" / "seed0" / "last.pt"
        torch.load(checkpoint, weights_only=True)
        story = f"code {code} after {seconds:.0f} s: {said[-500:]} ||| {own[-300:]}"
        if fine:
            for process in start(faulty, data, out, "--resume"):
                fine = process.wait(180) == 0 and fine
            found = differing(torch.load(checkpoint, weights_only=True), expected)
            fine, story = fine and not found, f"resumed: {found} {log[0].read_text()[-500:]}"
        report.add(f"{what}: the other one ended, resumed bit-equal", fine, f"{name}: {story}")
        if os.environ.get("VERBOSE"):
            print(name, fine, story)
    return report


def _wait(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the fault did not come about"
        time.sleep(0.05)
