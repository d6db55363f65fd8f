"""The disk is full, or has become read-only, while a training writes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch

from .common import (
    TINY,
    CantMount,
    Report,
    differing,
    environment,
    python,
    read_only,
    replace,
    script,
    small_disk,
    tiny_data,
)

# The network's checkpoint has 3 MB; KB left on the disk when the training is in its second epoch.
ROOM = [0, 40, 400, 1500]
CASES = [("full", room, trackers) for trackers in ((), ("tensorboard",)) for room in ROOM] + [("read-only", 0, ())] * 2
WAIT = """
import skd_plugins.training.engine as engine, time, pathlib
original = engine.RunLog.write
def write(self, event, step, epoch, values):
    original(self, event, step, epoch, values)
    if step == 7 and event == "train":
        print("step 7", flush=True)
        while not pathlib.Path({go!r}).exists(): time.sleep(0.01)
engine.RunLog.write = write
"""


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    data = tiny_data(folder)["beton"]
    recipe = replace(TINY, model_args={"channels": [16, 32, 64, 128]}, epochs=3)
    done = python(script(recipe, folder / "whole.py"), "--data", data, "--out", folder / "whole")
    assert done.returncode == 0, done.stderr
    whole = torch.load(folder / "whole" / "tiny.fault" / "seed0" / "last.pt", weights_only=True)
    for number, (what, room, trackers) in enumerate(CASES[:count]):
        place = folder / f"case{number}"
        try:
            with small_disk(place, "40m") as out:
                _case(report, replace(recipe, trackers=trackers), what, room, data, out, folder / f"go{number}", whole)
        except CantMount as error:
            report.skipped.append(f"{what}: {error}")
    return report


def _case(
    report: Report, recipe: object, what: str, room: int, data: Path, out: Path, go: Path, whole: dict[str, object]
) -> None:
    file = script(recipe, go.with_suffix(".py"), WAIT.format(go=str(go)))  # type: ignore[arg-type]
    command = [sys.executable, str(file), "--data", str(data), "--out", str(out)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "step 7" not in process.stdout.readline():
        assert process.poll() is None, process.stderr and process.stderr.read()
    run_folder = out / "tiny.fault" / "seed0"
    before = (run_folder / "last.pt").read_bytes()
    ballast = out / "ballast"
    if what == "full":
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
            file.truncate(max(ballast.stat().st_size - room * 1024, 0))
        go.touch()
        errors = _end(process)
        sound = (run_folder / "last.pt").read_bytes() == before
        left = [path.name for path in run_folder.iterdir() if path.name.endswith(".part")]
        ballast.unlink()
    else:
        # A file that is open for writing would keep the file system from becoming read-only: a bind mount does not ask.
        with read_only(out):
            go.touch()
            errors = _end(process)
            sound, left = (run_folder / "last.pt").read_bytes() == before, []
    error = [line for line in errors.splitlines() if line.startswith("error: ")]
    fine = process.returncode == 2 and len(error) == 1 and "--resume" in error[0] and "Traceback" not in errors
    fine = fine and sound and not left
    torch.load(run_folder / "last.pt", weights_only=True)
    story = f"{room} KB, {recipe.trackers}: code {process.returncode}, sound {sound}, left {left}: {errors}"  # type: ignore[attr-defined]
    if fine:
        done = python(file_of(go), "--data", data, "--out", out, "--resume")
        found = differing(torch.load(run_folder / "last.pt", weights_only=True), whole)
        fine, story = done.returncode == 0 and not found, f"resumed: {found}: {done.stderr}"
    report.add(f"{what}: said, old checkpoint intact, resumed bit-equal", fine, story)


def file_of(go: Path) -> Path:
    return go.with_suffix(".py")


def _end(process: subprocess.Popen[str]) -> str:
    begun = time.monotonic()
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        errors += f"\n[did not end in {time.monotonic() - begun:.0f} s]"
    return errors
