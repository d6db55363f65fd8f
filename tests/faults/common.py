"""What the campaigns share: a report, tiny data and a tiny recipe, and processes."""

import atexit
import functools
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE

from skd_plugins import Recipe, main, replace
from skd_plugins.data import Source, open_source, write_beton
from skd_plugins.data.beton.write import write_folder

ROOT = Path(__file__).parents[2]
TINY = replace(TINY_RECIPE, name="tiny.fault", epochs=3, save_minutes=1e-9)


@dataclass
class Report:
    """How often which outcome occurred, a line for each failure, and what could not be tried here."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())

    def add(self, outcome: str, fine: bool, story: str = "") -> None:
        """Counts one case."""
        self.outcomes[outcome if fine else f"FAILED: {outcome}"] += 1
        if not fine:
            self.failures.append(f"{outcome}: {' '.join(story.split())[-600:]}")

    def merge(self, other: "Report") -> None:
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.skipped += other.skipped

    def verdict(self, expected: int) -> None:
        """For the tests: all cases were tried, none failed."""
        assert not self.failures, "\n".join(self.failures)
        if self.skipped and not self.cases:
            pytest.skip("; ".join(self.skipped))
        assert self.cases + len(self.skipped) >= expected > 0, (self.cases, self.skipped)


# ---- data and trainings ----------------------------------------------------------------------------------------------


@functools.cache
def tiny_data() -> dict[str, Path]:
    """Training and validation digits as `.beton` and as folders, made once; 56 = 4 * 12 + 8 makes a short last step."""
    place = Path(tempfile.mkdtemp(prefix="faults-data-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for half, count in (("train", 56), ("val", 13)):
        source = open_source("digits", half == "train")
        first = np.stack([np.flatnonzero(source.targets == label)[:6] for label in range(10)], axis=1).ravel()
        part = take(source, first[:count])
        write_beton(part, place / "beton" / f"{half}.beton", raw_share=1.0, workers=1)
        write_folder(part, place / "folder" / half)
    return {"beton": place / "beton", "folder": place / "folder"}


def take(source: Source, keep: np.ndarray) -> Source:
    """A part of a source."""
    return Source(
        description="some digits",
        classes=source.classes,
        targets=source.targets[keep],
        load=lambda index: source.load(int(keep[index])),
        name_of=lambda index: f"digit {index}",
    )


def script(recipe: Recipe, path: Path, before: str = "") -> Path:
    """A recipe file; `before` runs first, to bring about what only a broken machine does."""
    path.write_text(
        f"import torch\ntorch.set_num_threads(1)\nfrom skd_plugins import Recipe, main\n{before}\n"
        f"if __name__ == '__main__':\n    main(Recipe.from_json({recipe.to_json()!r}))\n"
    )
    return path


class Fork:
    """Calls a function in a fork of this process, which has imported torch already; what it says goes to a file."""

    def __init__(self, work: Callable[[], object], log: Path, cwd: Path | None = None, **variables: str) -> None:
        def child() -> None:
            sys.stdout = sys.stderr = log.open("w", buffering=1)
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stdout.fileno(), 2)
            os.setsid()
            os.chdir(cwd or ".")
            os.environ.update(environment(**variables))
            torch.set_num_threads(1)
            work()

        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.process = multiprocessing.get_context("fork").Process(target=child)
        self.process.start()

    def kill(self) -> bool:
        """Kills it and its children; whether it was still alive."""
        alive = self.process.is_alive()
        if alive:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        return alive

    def end(self, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Waits for its end; one that does not come to it gets -99."""
        self.process.join(timeout)
        code = -99 if self.kill() else self.process.exitcode
        return subprocess.CompletedProcess([], code, "", self.log.read_text(errors="replace"))


def training(
    recipe: Recipe, data: Path, out: Path, *arguments: str, before: Callable[[], None] | None = None,
    log: Path | None = None, **variables: str,
) -> Fork:  # fmt: skip
    """A recipe's `main`; `before` runs first."""

    def work() -> None:
        if before:
            before()
        main(recipe, ["--data", str(data), "--out", str(out), *arguments])

    return Fork(work, log or out.with_name(f"{out.name}.txt"), **variables)


def launch(
    world: int, recipe: Recipe, data: Path, out: Path, *arguments: str, before: Callable[[], None] | None = None,
    where: int = 0,
) -> list[Fork]:  # fmt: skip
    """The processes of one training; `before` runs in one of them."""
    return [
        training(
            recipe, data, out, *arguments, before=before if rank == where else None,
            log=out.with_name(f"{out.name}-{rank}.txt"), **variables,
        )
        for rank, variables in enumerate(ranked(world) if world > 1 else [{}])
    ]  # fmt: skip


def ranked(world: int) -> list[dict[str, str]]:
    """Environment variables of the processes of one training."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": server.getsockname()[1]}
    return [
        {name: str(number) for name, number in {"RANK": rank, "LOCAL_RANK": rank, **shared}.items()}
        | {"MASTER_ADDR": "127.0.0.1"}
        for rank in range(world)
    ]


def together(work: Callable[[], object], folder: Path, **more: str) -> None:
    """Does something in two processes of one training, forks of this one; both have to end well."""
    pair = [Fork(work, folder / f"said{rank}.txt", **own | more) for rank, own in enumerate(ranked(2))]
    for done in [one.end(300) for one in pair]:
        assert done.returncode == 0, done.stderr[-3000:]


def last(out: Path) -> Path:
    """The checkpoint of the training that `out` has."""
    return out / TINY.name / "seed0" / "last.pt"


def state(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(last(out), weights_only=True)
    return result


def _leaves(value: Any, where: str = "") -> dict[str, Any]:
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    children = [_leaves(child, f"{where}/{key}") for key, child in inner if key != "card"]  # it names the command
    return {place: leaf for child in children for place, leaf in child.items()} or {where: value}


def differing(a: object, b: object) -> str:
    """The first place in which two checkpoints are not bit-equal; empty if there is none."""
    one, other = _leaves(a), _leaves(b)
    for where in one.keys() | other.keys():
        x, y = one.get(where, "absent"), other.get(where, "absent")
        same = torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y
        if type(x) is not type(y) or not same:
            return f"{where}: {x!r:.80} and {y!r:.80}"
    return ""


# ---- processes -------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"} | more


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process."""
    options = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, *map(str, arguments)], errors="replace", **options)


def python(*arguments: object, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """A Python process that has to end by itself; one that does not gets -99."""
    with start(*arguments, **options) as process:
        return end(process, timeout)


def end(process: subprocess.Popen[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Waits for the end of a process; one that does not come to it gets -99."""
    try:
        said, code = process.communicate(timeout=timeout), process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        said, code = process.communicate(), -99
    return subprocess.CompletedProcess(process.args, code, *said)


def wait_for(condition: Callable[[], object], alive: Callable[[], object] = lambda: True, seconds: float = 120) -> None:
    """Waits until something is the case; an error if it takes too long, or if whoever brings it about has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive(), "it ended by itself"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def refused(code: int | None, said: str, *words: str) -> bool:
    """Exit code 2, one line that begins with error: and has the words, no traceback."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    return code == 2 and len(lines) == 1 and all(word in lines[0] for word in words) and "Traceback" not in said
