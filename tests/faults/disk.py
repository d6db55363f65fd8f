"""The disk is full, or has become read-only, while a training writes."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from skd_plugins import Recipe, replace
from skd_plugins.training import engine

from .common import TINY, Report, differing, last, refused, state, tiny_data, training, wait_for

# KB left on the disk when the training is in its second epoch (the network's checkpoint has 3 MB), or "read-only".
ROOM = [0, 40, 400, 1500]
CASES: list[tuple[int | str, tuple[str, ...]]] = [
    *((room, trackers) for trackers in ((), ("tensorboard",)) for room in ROOM),
    ("read-only", ()),
    ("read-only", ()),
]


def _waiting(go: Path) -> None:
    """A training stops in its seventh step, and says so, until a file is there."""
    write = engine.RunLog.write

    def waiting(log: engine.RunLog, event: str, step: int, epoch: int, values: dict[str, float]) -> None:
        write(log, event, step, epoch, values)
        if step == 7 and event == "train":
            print("step 7", flush=True)
            while not go.exists():
                time.sleep(0.01)

    engine.RunLog.write = waiting


def run(count: int, folder: Path) -> Report:
    """`count` of the cases, in order."""
    report = Report()
    recipe = replace(TINY, model_args={"channels": [16, 32, 64, 128]})
    done = training(recipe, tiny_data()["beton"], folder / "whole").end()
    assert done.returncode == 0, done.stderr
    whole = state(folder / "whole")
    for number, (room, trackers) in enumerate(CASES[:count]):
        what = "read-only" if room == "read-only" else "full"
        try:
            with small_disk(folder / f"case{number}", "40m") as out:
                story = _case(replace(recipe, trackers=trackers), room, out, whole)
        except CantMount as error:
            report.skipped.append(f"{what}: {error}")
            continue
        report.add(f"{what}: said, old checkpoint intact, resumed bit-equal", not story, f"{room}, {trackers}: {story}")
    return report


def _case(recipe: Recipe, room: int | str, out: Path, whole: dict[str, Any]) -> str:
    """Empty if all was well, or what was not."""
    data, go = tiny_data()["beton"], out.with_name(f"{out.name}.go")
    process = training(recipe, data, out, before=lambda: _waiting(go))
    wait_for(lambda: process.log.exists() and "step 7" in process.log.read_text(), process.process.is_alive)
    before = last(out).read_bytes()
    with ExitStack() as stack:
        if isinstance(room, str):
            # A file open for writing would keep the file system from becoming read-only: a bind mount does not ask.
            stack.enter_context(read_only(out))
        else:
            stack.callback(_fill(out / "ballast", room).unlink)
        go.touch()
        done = process.end(60)
        sound = last(out).read_bytes() == before
        left = [] if isinstance(room, str) else list(last(out).parent.glob("*.part"))
    torch.load(last(out), weights_only=True)
    if not refused(done.returncode, done.stderr, "--resume") or not sound or left:
        return f"code {done.returncode}, sound {sound}, left {left}: {done.stderr}"
    done = training(recipe, data, out, "--resume").end()
    found = differing(state(out), whole)
    return f"resumed: {found}: {done.stderr}" if done.returncode or found else ""


def _fill(ballast: Path, room: int) -> Path:
    """Fills the disk up to some KB."""
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        file.truncate(max(ballast.stat().st_size - room * 1024, 0))
    return ballast


class CantMount(Exception):
    """Not root, or in a container without that right."""


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise CantMount(f"mounting is not allowed here ({' '.join(done.stderr.split())})")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder as a read-only file system, which binds root too."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
