"""What the campaigns share: the report of one, tiny data and a tiny recipe, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skd_plugins import Recipe, replace
from skd_plugins.data import Source, open_source, write_beton
from skd_plugins.data.beton.write import write_folder

ROOT = Path(__file__).parents[2]
TINY = Recipe(
    name="tiny.fault", dataset="digits", model="resnet10t", model_args={"channels": [8, 8, 16, 16]}, epochs=3,
    batch_size=12, lr=0.05, milestones=(1,), image_size=16, augment="shift", padding=2, hflip=0.0, crop_pct=1.0,
    workers=2, trackers=(), log_every=1, save_minutes=1e-9,
)  # fmt: skip


@dataclass
class Report:
    """What happened in a campaign: every case counted under its outcome, every failure with its story.

    Attributes:
        outcomes: how often what happened.
        failures: one line for each case that ended as none may end.
        skipped: what could not be tried here, and why.
    """

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

    def merge(self, other: Report) -> None:
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.skipped += other.skipped

    def verdict(self, expected: int) -> None:
        """For the tests: all cases were tried, none failed."""
        assert not self.failures, "\n".join(self.failures)
        if self.skipped and not self.cases:
            pytest.skip("; ".join(self.skipped))
        assert self.cases + len(self.skipped) >= expected > 0, (self.cases, self.skipped)


def tiny_data(folder: Path, *, train: int = 56, val: int = 13) -> dict[str, Path]:
    """Training and validation digits as `.beton` and as folders; 56 = 4 * 12 + 8 makes a short last step."""
    for half, count in (("train", train), ("val", val)):
        source = open_source("digits", half == "train")
        first = np.stack([np.flatnonzero(source.targets == label)[:6] for label in range(10)], axis=1).ravel()
        part = take(source, first[:count])
        if not (folder / "beton" / f"{half}.beton").exists():
            write_beton(part, folder / "beton" / f"{half}.beton", raw_share=1.0, workers=1)
            write_folder(part, folder / "folder" / half)
    return {"beton": folder / "beton", "folder": folder / "folder"}


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


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"} | more


def python(*arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """A Python process that has to end by itself; one that does not gets -99."""
    command = [sys.executable, *map(str, arguments)]
    options = {"env": environment(), "capture_output": True, "text": True, "errors": "replace"} | options
    try:
        return subprocess.run(command, timeout=timeout, **options)
    except subprocess.TimeoutExpired as error:
        text = [part.decode(errors="replace") if isinstance(part, bytes) else part or "" for part in
                (error.stdout, error.stderr)]  # fmt: skip
        return subprocess.CompletedProcess(command, -99, text[0], f"{text[1]}\n[did not end in {timeout} s]")


def one_line(done: subprocess.CompletedProcess[str]) -> bool:
    """Exit code 2, one line that begins with error:, no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr


def differing(a: Any, b: Any, where: str = "") -> str:
    """The first place in which two checkpoints are not bit-equal; empty if there is none."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return f"{where}: keys"
        # the card names the command
        return next((d for key in a if key != "card" if (d := differing(a[key], b[key], f"{where}/{key}"))), "")
    if isinstance(a, torch.Tensor):
        return "" if torch.equal(a, b) else where
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: length"
        return next(
            (d for n, (x, y) in enumerate(zip(a, b, strict=True)) if (d := differing(x, y, f"{where}[{n}]"))), ""
        )
    return "" if a == b else f"{where}: {a!r} and {b!r}"


@contextmanager
def small_disk(folder: Path, size: str, options: str = "") -> Iterator[Path]:
    """A file system of its own; raises `CantMount` where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise CantMount(f"mounting is not allowed here ({' '.join(done.stderr.split())})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder as a read-only file system, which binds root too."""
    steps = [["mount", "--bind", str(folder), str(folder)], ["mount", "-o", "remount,ro,bind", str(folder)]]
    for number, step in enumerate(steps):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            if number:
                subprocess.run(["umount", "-l", str(folder)], check=True)
            raise CantMount(f"read-only mounts are not allowed here ({' '.join(done.stderr.split())})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class CantMount(Exception):
    """Not root, or in a container without that right."""


Campaign = Callable[[int, Path], Report]
__all__ = ["ROOT", "TINY", "Campaign", "CantMount", "Report", "differing", "environment", "one_line", "python",
           "read_only", "replace", "script", "small_disk", "take", "tiny_data"]  # fmt: skip
